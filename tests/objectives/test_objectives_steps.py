"""One training step of each objective against the same step written by hand."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field

import pytest
import torch
from torch.nn import functional as F

from deconfound.attacks import FGSMRS, PGD
from deconfound.attacks.losses import kl_to_reference
from deconfound.core.streams import Streams
from deconfound.core.threat import ThreatModel
from deconfound.core.types import Progress
from deconfound.errors import InputError
from deconfound.objectives import AdversarialTraining, Standard, Trades
from deconfound.objectives.compose import warmed
from deconfound.training import LoopSettings, OptimizerSettings, SelectionSettings, fit
from toys import ToySource, tiny_net

THREAT = ThreatModel("linf", 0.1)
RATE = 0.1


@dataclass
class Recorder:
    """An attack that writes down what it was given and what it made."""

    attack: object
    calls: list = field(default_factory=list)

    @property
    def threat(self):
        return self.attack.threat

    def at(self, threat):
        return Recorder(self.attack.at(threat), self.calls)

    def __call__(self, model, images, labels, streams=None, context=None, *, judge=None):
        made = self.attack(model, images, labels, streams, context, judge=judge)
        self.calls.append((images.clone(), labels.clone(), context, made.clone(), self.attack.threat.eps))
        return made


def one_step(objective, count=16, **changes):
    """A single step of plain gradient descent by the loop."""
    settings = {
        "epochs": 1,
        "batch_size": count,
        "lr": RATE,
        "optimizer": OptimizerSettings(momentum=0.0, weight_decay=0.0),
        "selection": SelectionSettings(keep="last"),
    }
    return fit(objective, ToySource(count), LoopSettings(**(settings | changes)))


def by_hand(model, loss):
    """The same step by torch alone, in train mode: the loss of the network, its gradient, one update."""
    model.train()
    model.zero_grad()
    loss(model).backward()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter -= RATE * parameter.grad
    return model.state_dict()


def assert_same(model, expected):
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, expected[name], rtol=0, atol=1e-6)


@pytest.mark.parametrize("norm", [False, True])
def test_standard(norm):
    model, source = tiny_net(norm=norm), ToySource(16)
    reference = copy.deepcopy(model)
    result = one_step(Standard(model))
    assert_same(model, by_hand(reference, lambda m: F.cross_entropy(m(source.images), source.labels)))
    assert result.history[0]["loss"] == result.history[0]["cross_entropy"]


ATTACKS = {
    "pgd-at": lambda **more: PGD(THREAT, steps=4, keep="last", **more),
    "fgsm-rs": lambda **more: FGSMRS(THREAT, keep="last", **more),
}


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("name", ATTACKS)
def test_adversarial_training_is_cross_entropy_on_the_attacks_images(name, norm):
    model, attack = tiny_net(norm=norm), Recorder(ATTACKS[name]())
    reference = copy.deepcopy(model)
    result = one_step(AdversarialTraining(model, attack))
    ((images, labels, _, adversarial, _),) = attack.calls
    assert THREAT.contains(adversarial, images).all()
    assert float((adversarial - images).abs().mean()) > 0.01
    with torch.no_grad():
        clean, attacked = (F.cross_entropy(copy.deepcopy(reference).eval()(x), labels) for x in (images, adversarial))
    assert attacked > clean + 0.01  # the images were made against the network as it was
    expected = by_hand(reference, lambda m: F.cross_entropy(m(adversarial), labels))
    assert_same(model, expected)
    if norm:  # one forward in train mode moved the statistics, the attack in eval mode did not
        assert torch.equal(model[1].running_mean, expected["1.running_mean"])
        assert model[1].num_batches_tracked.item() == 1
    assert result.history[0]["adversarial_cross_entropy"] == result.history[0]["loss"]
    assert result.history[0]["lr"] == RATE


def trades(model, beta=6.0, **more):
    attack = PGD(THREAT, steps=3, keep="last", loss=kl_to_reference, start="gaussian", **more)
    recorder = Recorder(attack)
    return Trades(model, recorder, beta=beta), recorder


def test_trades_without_a_reference_saves_the_clean_prediction_in_evaluation():
    passes = {}
    for reference in (True, False):
        model, modes = tiny_net(), []
        model.register_forward_hook(lambda module, *_, modes=modes: modes.append(module.training))
        recorder = Recorder(PGD(THREAT, steps=3, keep="last"))
        one_step(Trades(model, recorder, reference=reference))
        passes[reference] = modes
        assert (recorder.calls[0][2] is None) == (not reference)
    assert passes[True] == [False, *passes[False]]


@pytest.mark.parametrize("beta", [0.0, 1.0, 6.0])
@pytest.mark.parametrize("norm", [False, True])
def test_trades_is_cross_entropy_plus_beta_times_the_divergence(norm, beta):
    model = tiny_net(norm=norm)
    objective, attack = trades(model, beta)
    reference = copy.deepcopy(model)
    result = one_step(objective)
    ((images, labels, context, adversarial, _),) = attack.calls
    assert THREAT.contains(adversarial, images).all()

    with torch.no_grad():  # the attack is guided by the clean logits of the network in eval mode
        logits = copy.deepcopy(reference).eval()(images)
    assert torch.equal(context["reference_logits"], logits)

    def loss(m):
        clean, moved = m(images), m(adversarial)
        divergence = F.kl_div(moved.log_softmax(1), clean.softmax(1), reduction="batchmean")
        return F.cross_entropy(clean, labels) + beta * divergence

    expected = by_hand(reference, loss)
    assert_same(model, expected)
    row = result.history[0]
    assert row["loss"] == pytest.approx(row["cross_entropy"] + beta * row["kl"], rel=1e-6)
    if norm:  # exactly the two passes of the loss, in this order, and nothing of attack or reference logits
        assert torch.equal(model[1].running_mean, expected["1.running_mean"])
        assert torch.equal(model[1].running_var, expected["1.running_var"])
        assert model[1].num_batches_tracked.item() == 2


def test_an_attack_in_train_mode_moves_the_statistics_as_well():
    model = tiny_net(norm=True)
    one_step(AdversarialTraining(model, ATTACKS["pgd-at"](mode="train")))
    assert model[1].num_batches_tracked.item() == 1 + 4


def test_modes_flags_and_gradients_are_left_as_they_were():
    model, source = tiny_net(norm=True).train(), ToySource(16)
    model[1].eval()
    model[0].bias.requires_grad_(False)
    modes = [m.training for m in model.modules()]
    flags = [p.requires_grad for p in model.parameters()]
    state = copy.deepcopy(model.state_dict())
    batch = next(source.batches([torch.arange(16)]))
    for objective in (AdversarialTraining(model, ATTACKS["pgd-at"]()), trades(model)[0]):
        images = objective.craft(batch, Progress(epoch=0, epochs=1), Streams(0, batch.index))
        assert not images.requires_grad
        assert [m.training for m in model.modules()] == modes
        assert [p.requires_grad for p in model.parameters()] == flags
        assert all(p.grad is None for p in model.parameters())
        assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())


def test_the_radius_grows_over_the_warmup():
    attack = PGD(THREAT, steps=4, keep="last")
    for epoch in range(8):
        for step in range(2):
            progress = Progress(epoch=epoch, epochs=8, step=step, steps=2)
            share = (2 * epoch + step) / 16
            now = warmed(attack, progress, 0.5)
            assert now.threat.eps == pytest.approx(0.1 * min(1, share / 0.5))
            assert now.step == pytest.approx(2.5 * now.threat.eps / 4)  # a default step follows the radius
            assert (now is attack) == (share >= 0.5)
            assert warmed(attack, progress, 0.0) is attack
    fixed = PGD(THREAT, steps=4, step_size=0.03, keep="last")
    assert warmed(fixed, Progress(epoch=1, epochs=4), 1.0).step == 0.03


@pytest.mark.parametrize(
    "make", [lambda m, a: AdversarialTraining(m, a, warmup=0.5), lambda m, a: Trades(m, a, warmup=0.5)]
)
def test_training_starts_on_clean_images_with_a_warmup(make):
    model = tiny_net()
    attack = Recorder(PGD(THREAT, steps=2, keep="last"))
    one_step(make(model, attack), epochs=4)
    assert [call[4] for call in attack.calls] == pytest.approx([0, 0.05, 0.1, 0.1])
    assert torch.equal(attack.calls[0][3], attack.calls[0][0])
    for images, _, _, made, eps in attack.calls[1:]:
        reach = float((made - images).abs().max())
        assert 0.9 * eps < reach <= eps + 1e-6


def test_every_epoch_and_seed_attacks_from_another_start():
    def made(seed):
        attack = Recorder(PGD(THREAT, steps=1, step_size=1e-9, keep="last"))
        one_step(AdversarialTraining(tiny_net(), attack), epochs=2, seed=seed)
        offsets = []
        for images, _, _, adversarial, _ in attack.calls:
            order = (images.flatten(1).sum(1)).argsort()
            offsets.append((adversarial - images)[order])
        return offsets

    (first, second), (third, _) = made(0), made(1)
    assert float((first - second).abs().mean()) > 0.01
    assert float((first - third).abs().mean()) > 0.01
    again = made(0)
    assert torch.equal(again[0], first)


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda m, a: AdversarialTraining(m, a, warmup=-0.1), "warmup"),
        (lambda m, a: AdversarialTraining(m, a, warmup=float("nan")), "warmup"),
        (lambda m, a: Trades(m, a, warmup=1.5), "warmup"),
        (lambda m, a: Trades(m, a, beta=-1), "beta"),
        (lambda m, a: Trades(m, a, beta=float("nan")), "beta"),
    ],
)
def test_bad_settings_are_refused(make, field):
    with pytest.raises(InputError, match=f"^{field}: got "):
        make(tiny_net(), ATTACKS["pgd-at"]())
