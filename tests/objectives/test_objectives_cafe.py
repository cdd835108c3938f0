"""Causal inoculation: recorded losses, the term by hand, every host, what costs nothing and what never changes."""

from __future__ import annotations

import copy
import hashlib
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from deconfound.core.protocols import AdversarialObjective
from deconfound.core.streams import Streams
from deconfound.core.types import Loss
from deconfound.errors import InputError
from deconfound.functional.losses import kl_divergence
from deconfound.models import CausalFeatureMap, causal_net
from deconfound.objectives import AdversarialTraining, Inoculated, Standard, Trades
from deconfound.training import LoopSettings, SelectionSettings, fit
from inoculated import HOSTS, INVERSION, MIDDLE, adv, batch_of, host_of, model_step, reference
from toys import SplitNet, ToySource, tiny_net


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
