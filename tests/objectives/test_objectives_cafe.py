"""Causal inoculation: recorded losses, the term by hand, every host, what costs nothing and what never changes."""

from __future__ import annotations

import copy
import hashlib
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from deconfound.attacks import PGD, causal_inversion
from deconfound.core.protocols import AdversarialObjective
from deconfound.core.streams import Streams
from deconfound.core.threat import ThreatModel
from deconfound.core.types import Loss, Progress
from deconfound.errors import InputError
from deconfound.functional.losses import kl_divergence
from deconfound.models import CausalFeatureMap, CiiV, Sampling, causal_net
from deconfound.models.style_branch import StyleBranch
from deconfound.objectives import AdversarialTraining, CausalAdv, Inoculated, Standard, Trades
from deconfound.objectives.ciiv import CiiVAdversarialTraining
from deconfound.objectives.styled import StyleLoss
from deconfound.training import LoopSettings, SelectionSettings, fit
from toys import SplitNet, ToySource, tiny_net

THREAT = ThreatModel("linf", 0.1)
ATTACK = PGD(THREAT, steps=2, keep="last")
INVERSION = causal_inversion(0.05, 3)
MIDDLE = Progress(epoch=1, epochs=2)


def recording(shared, name):
    with np.load(shared / "golden" / f"{name}.npz") as file:
        return {key: torch.from_numpy(np.asarray(file[key])) for key in file.files}


class Given(nn.Module):
    """Logits by the images' first pixel, so that recorded logits can be put in: x, x~ and x_causal are 0, 1 and 2."""

    def __init__(self, *logits):
        super().__init__()
        self.logits = nn.ParameterList(logits)

    def features(self, images):
        return images

    def head(self, features):
        return self.logits[round(float(features[0, 0, 0, 0]))]

    def forward(self, images):
        return self.head(self.features(images))


class Answer:
    """An attack that answers with images of one value."""

    def __init__(self, value):
        self.value = value

    def __call__(self, model, images, labels, streams=None, context=None, *, judge=None):
        return torch.full_like(images, self.value)


def recorded_step(logits, labels, host):
    model = Given(*(one.clone() for one in logits))
    causal = CausalFeatureMap(Given(*(torch.zeros(one.shape) for one in logits)), nn.Identity())
    images = torch.zeros(len(labels), 1, 1, 1)
    batch = next(ToySource(len(labels)).batches([torch.arange(len(labels))]))
    objective = Inoculated(host(model, Answer(1.0)), causal, Answer(2.0))
    (step,) = objective.steps(replace(batch, images=images, labels=labels), MIDDLE, Streams(0, batch.index))
    return model, step.loss()


def test_recorded_losses(shared):
    recorded = recording(shared, "cafe_losses")
    logits = [recorded[name] for name in ("logits", "logits_adversarial", "logits_inversion")]
    _, loss = recorded_step(logits, recorded["labels"], lambda m, a: Trades(m, a, beta=2.0))
    assert float(loss.parts["causal_kl"]) == pytest.approx(float(recorded["causal_loss"]), rel=1e-5)
    expected = float(recorded["trades_beta2"]) + float(recorded["causal_loss"])
    assert float(loss.total.detach()) == pytest.approx(expected, rel=1e-5)


def test_recorded_gradients(shared):
    recorded = recording(shared, "cafe_loss_gradients_and_awp")
    logits = [torch.zeros(6, 5), recorded["logits_adv"], recorded["logits_inv"]]
    labels = torch.zeros(6, dtype=torch.int64)
    model, loss = recorded_step(logits, labels, AdversarialTraining)
    term = loss.total - F.cross_entropy(model.logits[1], labels)
    assert float(term.detach()) == pytest.approx(float(recorded["loss"]), rel=1e-5)
    found = torch.autograd.grad(term, (model.logits[1], model.logits[2]))
    for gradient, name in zip(found, ("grad_adv", "grad_inv"), strict=True):
        size = float(recorded[name].abs().max())
        torch.testing.assert_close(gradient, recorded[name], rtol=0, atol=1e-5 * size)


def digest(module):
    parts = (tensor.detach().numpy().tobytes() for _, tensor in sorted(module.state_dict().items()))
    return hashlib.sha256(b"".join(parts)).hexdigest()


def reference(seed=5, norm=True):
    """A network and a hypothesis with a say of its own."""
    torch.manual_seed(seed)
    causal = CausalFeatureMap(SplitNet(seed, norm=norm), causal_net((16,), seed=seed))
    causal.network.passes = 0
    return causal


def adv(model):
    return AdversarialTraining(model, ATTACK)


def trades(model):
    return Trades(model, ATTACK)  # the five hosts of the paper craft by cross entropy


def causaladv(model):
    return CausalAdv(model, StyleBranch(16, 4), replace(ATTACK, loss=StyleLoss()))


HOSTS = {"adv": adv, "trades": trades, "causaladv": causaladv}


def host_of(name, seed=0):
    return HOSTS[name](SplitNet(seed, norm=True))


def batch_of(count=16):
    return next(ToySource(count, 4).batches([torch.arange(count)]))


ALIVE = []  # steps under way: what an objective holds for them goes with them


def model_step(objective, batch):
    """The model's step; the losses of the steps before it are evaluated, and no weight moves."""
    for player in objective.players().values():
        player.train()
    ALIVE[:] = [objective.steps(batch, MIDDLE, Streams(0, batch.index))]
    for step in ALIVE[0]:
        if step.player == "model":
            return step
        step.loss()
    raise AssertionError("no step of the model")


@pytest.mark.parametrize("name", HOSTS)
def test_the_term_is_added_to_the_hosts_loss_at_the_hosts_images(name):
    plain, batch = host_of(name), batch_of()
    objective = Inoculated(host_of(name), reference(), INVERSION, weight=0.7)
    alone = model_step(plain, batch)
    first, together = alone.loss(), model_step(objective, batch)
    model = copy.deepcopy(objective.model)
    found = together.loss()
    assert torch.equal(together.adversarial, alone.adversarial)
    assert found.parts.keys() == first.parts.keys() | {"causal_kl"}
    assert all(torch.equal(first.parts[name], found.parts[name]) for name in first.parts)
    torch.testing.assert_close(found.total, first.total + 0.7 * found.parts["causal_kl"])
    again = together.loss()
    assert torch.equal(again.total, found.total)
    # by hand
    causal, streams = objective.causal, Streams(0, batch.index)
    causal.eval()
    natural, moved = causal.features(batch.images), causal.features(together.adversarial)
    target = causal.head(natural + causal.hypothesis(moved - natural)).detach()
    made = INVERSION(model.eval(), batch.images, batch.labels, streams.fold("inversion"), {"target_logits": target})
    model.train()
    p, q = model(together.adversarial).log_softmax(1), model(made).log_softmax(1)
    assert float(found.parts["causal_kl"]) == pytest.approx(float((p.exp() * (p - q)).sum(1).mean().detach()), rel=1e-4)
    assert float(found.parts["causal_kl"]) > 0


def test_the_gradient_reaches_both_branches_unless_the_target_is_detached():
    grown = {}
    for detach in (False, True):
        objective, batch = Inoculated(host_of("adv"), reference(), INVERSION, detach_target=detach), batch_of()
        step, model = model_step(objective, batch), objective.model
        inverted = objective.invert(batch.images, batch.labels, step.adversarial, Streams(0, batch.index))
        grown[detach] = torch.autograd.grad(step.loss().total, model.last.weight)[0]
        perturbed, causal = model(step.adversarial), model(inverted)
        causal = causal.detach() if detach else causal
        total = F.cross_entropy(perturbed, batch.labels) + kl_divergence(perturbed, causal).mean()
        expected = torch.autograd.grad(total, model.last.weight)[0]
        torch.testing.assert_close(grown[detach], expected, rtol=1e-3, atol=1e-5)
    assert not torch.allclose(grown[False], grown[True], rtol=1e-3)


def trained(objective):
    settings = LoopSettings(epochs=1, batch_size=16, lr=0.05, selection=SelectionSettings(keep="last"))
    fit(objective, ToySource(32), settings)
    return objective.host.players() if isinstance(objective, Inoculated) else objective.players()


@pytest.mark.parametrize("reference_kind", ["frozen", "live"])
@pytest.mark.parametrize("name", HOSTS)
def test_weight_0_is_the_host_bit_for_bit(name, reference_kind):
    plain = trained(host_of(name))
    none = trained(Inoculated(host_of(name), reference(), INVERSION, weight=0.0, reference=reference_kind))
    some = trained(Inoculated(host_of(name), reference(), INVERSION, weight=1.0, reference=reference_kind))
    assert plain.keys() == none.keys()
    for player in plain:
        assert digest(plain[player]) == digest(none[player])
    assert digest(plain["model"]) != digest(some["model"])


@pytest.mark.parametrize("name", HOSTS)
def test_the_reference_and_h_never_change_in_the_loop(name):
    causal, other = reference(), reference()
    before = digest(causal), digest(other.hypothesis)
    trained(Inoculated(host_of(name), causal, INVERSION))
    trained(Inoculated(host_of(name), other, INVERSION, reference="live"))
    assert (digest(causal), digest(other.hypothesis)) == before


def test_the_hosts_other_steps_stay_in_their_order():
    objective, batch = Inoculated(host_of("causaladv"), reference(), INVERSION), batch_of()
    taken = []
    for one in (host_of("causaladv"), objective):
        steps = one.steps(batch, MIDDLE, Streams(0, batch.index))
        taken.append([(step.player, float(step.loss().total.detach())) for step in steps])
    assert [player for player, _ in taken[1]] == ["style", "model"]
    assert taken[0][0] == taken[1][0]
    assert taken[0][1] != taken[1][1]
    assert objective.players().keys() == {"model", "style", "causal"}


@pytest.mark.parametrize(("name", "host_passes"), [("adv", 2 + 1), ("trades", 2 + 1 + 2), ("causaladv", 1 + 1 + 2 + 1)])
def test_passes_are_as_few_as_can_be(name, host_passes):
    """The host's own; the inversion's three; one of x_causal; one of the reference for x and x~ together."""
    objective, batch = Inoculated(host_of(name), reference(), INVERSION), batch_of()
    objective.model.passes = objective.causal.network.passes = 0
    model_step(objective, batch).loss()
    assert objective.model.passes == host_passes + INVERSION.steps + 1
    seen = []
    objective.causal.network.conv.register_forward_pre_hook(lambda _, given: seen.append(len(given[0])))
    model_step(objective, batch).loss()
    assert seen == [2 * len(batch.labels)]


class Silent:
    """A host that hands on neither its logits nor its images."""

    def __init__(self, host):
        self.host = host
        self.players, self.craft, self.declared_attacks = host.players, host.craft, host.declared_attacks

    def loss(self, *given):
        return self.host.loss(*given)._replace(adversarial=None)

    def steps(self, batch, progress, streams):
        for step in self.host.steps(batch, progress, streams):
            yield replace(step, loss=lambda step=step: step.loss()._replace(adversarial=None), adversarial=None)


def test_a_host_that_hands_nothing_on_costs_more_and_ends_the_same():
    batch = batch_of()
    known, silent = host_of("adv"), Silent(host_of("adv"))
    first, second = (model_step(Inoculated(h, reference(), INVERSION), batch).loss() for h in (known, silent))
    torch.testing.assert_close(first.total, second.total)


class Shifted:
    """A wrapper whose scope moves the weights, as an adversarial weight perturbation does."""

    def __init__(self, host, by):
        self.host, self.by = host, by
        self.players, self.craft, self.loss = host.players, host.craft, host.loss
        self.declared_attacks = host.declared_attacks

    def steps(self, batch, progress, streams):
        for step in self.host.steps(batch, progress, streams):
            yield replace(step, scope=lambda: self._moved(1.0))

    @contextmanager
    def _moved(self, sign):
        weight = self.players()["model"].last.weight
        with torch.no_grad():
            weight.add_(self.by)
        try:
            yield
        finally:
            with torch.no_grad():
                weight.sub_(self.by)


@pytest.mark.parametrize("kind", ["frozen", "live"])
def test_inside_the_hosts_scope_everything_has_its_weights(kind):
    """Images are crafted before; target (live), inversion and losses follow the perturbed weights."""
    batch, by = batch_of(), torch.randn(4, 16)
    objective = Inoculated(Shifted(host_of("adv"), by), reference(), INVERSION, reference=kind)
    step = model_step(objective, batch)
    with step.scope():
        found = step.loss()
    moved = host_of("adv")
    with torch.no_grad():
        moved.model.last.weight.add_(by)
    twin = Inoculated(moved, reference(), INVERSION, reference=kind)
    expected = twin.loss(batch, step.adversarial, MIDDLE, Streams(0, batch.index))
    torch.testing.assert_close(found.total, expected.total)
    outside = step.loss()
    assert not torch.allclose(outside.total, expected.total, rtol=1e-3)


def test_a_live_reference_is_the_model_in_train_mode():
    objective, batch = Inoculated(host_of("adv"), reference(), INVERSION, reference="live"), batch_of()
    h = objective.players()["causal"]
    model, made = copy.deepcopy(objective.model), batch.images.flip(0)
    h.train()
    found = objective.target(batch.images, made)
    assert h.training  # put back
    natural, moved = model.features(batch.images), model.features(made)
    expected = model.head(natural + h.eval()(moved - natural))
    torch.testing.assert_close(found, expected.detach())
    assert not found.requires_grad
    assert set(objective.players()) == {"model", "causal"}
    assert next(h.parameters()) is next(objective.causal.hypothesis.parameters())


def test_the_frozen_reference_is_in_evaluation_whatever_the_loop_sets():
    causal = reference()
    objective, batch = Inoculated(host_of("adv"), causal, INVERSION), batch_of()
    causal.train()
    found = objective.target(batch.images, batch.images.flip(0))
    assert causal.network.training
    causal.eval()
    natural, moved = causal.features(batch.images), causal.features(batch.images.flip(0))
    torch.testing.assert_close(found, causal.causal(natural, moved).detach())
    one = objective.target(batch.images[:1], batch.images.flip(0)[:1])
    torch.testing.assert_close(one, found[:1])  # nothing depends on the batch


def test_a_network_that_looks_several_times():
    def network(seed):
        return CiiV(SplitNet(seed, channels=3), Sampling(loops=2), channels=1, size=8, mean=0.5, std=0.25)

    torch.manual_seed(0)
    frozen = network(3)
    causal = CausalFeatureMap(frozen, causal_net((2, 16)))
    host = CiiVAdversarialTraining(network(0), ATTACK)
    objective, batch = Inoculated(host, causal, INVERSION), batch_of()
    step = model_step(objective, batch)
    loss = step.loss()
    assert loss.total.isfinite()
    assert torch.equal(loss.total, step.loss().total)
    inverted = objective.invert(batch.images, batch.labels, step.adversarial, Streams(0, batch.index))
    views = [host.loss(batch, one, MIDDLE, Streams(0, batch.index)).adversarial for one in (step.adversarial, inverted)]
    assert float(loss.parts["causal_kl"]) == pytest.approx(float(kl_divergence(*views).mean().detach()), rel=1e-4)


@pytest.mark.parametrize("scale", [1.0, 1e4])
@pytest.mark.parametrize("autocast", [False, True])
def test_saturated_logits_and_lower_precision_stay_finite(scale, autocast):
    objective, batch = Inoculated(host_of("trades"), reference(), INVERSION), batch_of()
    with torch.no_grad():
        objective.model.last.weight.mul_(scale)
        objective.causal.network.last.weight.mul_(-scale)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        loss = model_step(objective, batch).loss()
    assert loss.total.isfinite()
    gradients = torch.autograd.grad(loss.total, list(objective.model.parameters()))
    assert all(gradient.isfinite().all() for gradient in gradients)


def test_it_is_an_objective_with_an_adversarial_example_itself():
    objective, batch = Inoculated(host_of("adv"), reference(), INVERSION), batch_of()
    assert isinstance(objective, AdversarialObjective)
    streams = Streams(0, batch.index)
    (step,) = objective.steps(batch, MIDDLE, streams)
    made = objective.craft(batch, MIDDLE, streams)
    assert torch.equal(made, step.adversarial)
    loss = objective.loss(batch, made, MIDDLE, streams)
    assert isinstance(loss, Loss)
    assert torch.equal(step.loss().total, loss.total)
    assert objective.declared_attacks() == ()
    assert len(Inoculated(host_of("causaladv"), reference(), INVERSION).declared_attacks()) == 4


def test_refusals():
    with pytest.raises(InputError, match=r"^host: got 'Standard'; expected an objective with an adversarial example"):
        Inoculated(Standard(tiny_net()), reference(), INVERSION)
    with pytest.raises(InputError, match=r"^weight: got -1"):
        Inoculated(host_of("adv"), reference(), INVERSION, weight=-1)
    with pytest.raises(InputError, match=r"^reference: got 'both'; expected one of frozen, live"):
        Inoculated(host_of("adv"), reference(), INVERSION, reference="both")
    model = SplitNet(norm=True)
    shared = CausalFeatureMap(model, causal_net((16,)))
    with pytest.raises(InputError, match=r"^causal: got 'CausalFeatureMap'; expected a copy of the network"):
        Inoculated(adv(model), shared, INVERSION)
    Inoculated(adv(model), copy.deepcopy(shared), INVERSION)
    assert all(p.requires_grad for p in model.parameters())
    Inoculated(adv(model), shared, INVERSION, reference="live")
    assert all(p.requires_grad for p in model.parameters())
    with pytest.raises(InputError, match=r"^host: got 'Inoculated'; expected an objective that is not inoculated yet"):
        Inoculated(Inoculated(host_of("adv"), reference(), INVERSION), reference(), INVERSION)
