"""Weight perturbation: the authors' numbers, the step and its gradient, looking ahead, and every kind of host."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric
from torch import nn

from deconfound.attacks import PGD
from deconfound.attacks.losses import kl_to_reference
from deconfound.core.protocols import AdversarialObjective
from deconfound.core.streams import Streams
from deconfound.core.types import Batch, Progress
from deconfound.errors import InputError
from deconfound.functional.norms import relative_ascent
from deconfound.objectives import Mart, Standard, Trades, WeightPerturbed
from deconfound.training import LoopSettings, SelectionSettings, fit
from perturbed_hosts import PROGRESS, THREAT, Given, causaladv, pgd_at, plain, same, setting, weights
from toys import Game, SplitNet, ToySource, tiny_net


def trades(model):
    return Trades(model, PGD(THREAT, steps=2, keep="last", loss=kl_to_reference, start="gaussian"))


class TestGolden:
    @pytest.fixture
    def golden(self, shared):
        return np.load(shared / "golden" / "cafe_loss_gradients_and_awp.npz")

    def test_the_authors_perturbation(self, golden):
        model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(48, 5))
        state = {k.removeprefix("awp_w."): torch.tensor(golden[k]) for k in golden.files if k.startswith("awp_w.")}
        model.load_state_dict(state)
        images, labels = torch.tensor(golden["awp_images"]), torch.tensor(golden["awp_labels"])
        objective = WeightPerturbed(Given(model, plain), gamma=float(golden["awp_gamma"]))
        before = copy.deepcopy(model.state_dict())
        batch = Batch(images, labels, torch.arange(len(labels)))
        (step,) = objective.steps(batch, PROGRESS, Streams(0, batch.index))
        with step.scope():
            inside = {name: p.detach() - before[name] for name, p in model.named_parameters()}
        expected = {k.removeprefix("awp_delta."): golden[k] for k in golden.files if k.startswith("awp_delta.")}
        assert expected.keys() == {"0.weight", "3.weight"}
        for name, moved in inside.items():
            if name in expected:
                scale = float(np.abs(expected[name]).max())
                assert float((moved - torch.tensor(expected[name])).abs().max()) <= 1e-4 * scale
            else:  # one dimension: not perturbed
                assert torch.equal(moved, torch.zeros_like(moved))
        assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_the_step_is_a_share_of_each_weight_along_its_gradient():
    model, (batch, streams) = tiny_net(), setting()
    host = trades(model)
    (plain_step,) = host.steps(batch, PROGRESS, streams)
    gradients = dict(
        zip(
            dict(model.named_parameters()),
            torch.autograd.grad(plain_step.loss().total, model.parameters()),
            strict=True,
        )
    )
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    (step,) = WeightPerturbed(host, gamma=0.03).steps(batch, PROGRESS, streams)
    with step.scope():
        for name, p in model.named_parameters():
            g, w = gradients[name], before[name]
            delta = 0.03 * w.norm() * g / g.norm() if w.ndim > 1 else torch.zeros_like(w)
            torch.testing.assert_close(p.detach() - w, delta, rtol=1e-3, atol=1e-6)


def test_the_gradient_is_taken_at_the_perturbed_weights():
    model, (batch, streams) = tiny_net(), setting()
    other = copy.deepcopy(model)
    (step,) = WeightPerturbed(trades(model), gamma=0.05).steps(batch, PROGRESS, streams)
    with step.scope():
        step.loss().total.backward()
        at = weights(model)
    with torch.no_grad():
        for p, value in zip(other.parameters(), at, strict=True):
            p.copy_(value)
    host = trades(other)  # its images are those of the weights before, the perturbation comes after
    host.loss(batch, step.adversarial, PROGRESS, streams).total.backward()
    assert same([p.grad for p in model.parameters()], [p.grad for p in other.parameters()])
    assert not same(at, weights(model))


def test_the_host_is_ascended_and_first_order_right():
    """On the loss itself: the perturbed loss rises by gamma |w| |g| summed over tensors, to first order."""
    model, (batch, streams) = tiny_net().double(), setting()
    batch = Batch(batch.images.double(), batch.labels, batch.index)
    host, gamma = Given(model, plain), 1e-5
    (step,) = WeightPerturbed(host, gamma).steps(batch, PROGRESS, streams)
    before = step.loss().total
    gradients = torch.autograd.grad(before, list(model.parameters()))
    expected = sum(
        gamma * w.detach().norm() * g.norm() for w, g in zip(model.parameters(), gradients, strict=True) if w.ndim > 1
    )
    with step.scope():
        rise = (step.loss().total - before).detach()
    assert float(rise) == pytest.approx(float(expected), rel=1e-2)


def test_relative_ascent_of_tiny_and_zero_gradients():
    weight = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    tiny = relative_ascent(weight, torch.full((4, 3), 1e-30), 0.1)
    assert float(tiny.norm()) == pytest.approx(0.1 * float(weight.norm()), rel=1e-5)
    assert not relative_ascent(weight, torch.zeros(4, 3), 0.1).any()
    assert not relative_ascent(torch.zeros(4, 3), torch.ones(4, 3), 0.1).any()


class TestLookingAhead:
    def test_batchnorm_moves_once_and_at_the_perturbed_weights(self):
        model, (batch, streams) = tiny_net(norm=True), setting()
        reference = copy.deepcopy(model)
        (step,) = WeightPerturbed(pgd_at(model), gamma=0.3).steps(batch, PROGRESS, streams)
        with step.scope():
            step.loss()
            at = weights(model)
        assert model[1].num_batches_tracked.item() == 1
        with torch.no_grad():
            for p, value in zip(reference.parameters(), at, strict=True):
                p.copy_(value)
            reference(step.adversarial)
        assert same(list(model.buffers()), list(reference.buffers()))

    def test_batchnorm_moves_once_per_pass_and_that_of_causaladvs_clean_images_before_the_perturbation(self):
        model, (batch, streams) = SplitNet(norm=True), setting()
        reference, before = copy.deepcopy(model), weights(model)
        for step in WeightPerturbed(causaladv(model), gamma=0.3).steps(batch, PROGRESS, streams):
            with step.scope():
                step.loss()
                at = weights(model)
        assert not same(before, at)
        assert model.norm.num_batches_tracked.item() == 2
        reference(batch.images)
        with torch.no_grad():
            for p, value in zip(reference.parameters(), at, strict=True):
                p.copy_(value)
            reference(step.adversarial)
        assert same(list(model.buffers()), list(reference.buffers()))

    def test_dropout_masks_are_those_of_the_host(self):
        model = nn.Sequential(tiny_net(), nn.Dropout(0.5))
        batch, streams = setting()
        (step,) = WeightPerturbed(pgd_at(model), gamma=0.3).steps(batch, PROGRESS, streams)
        torch.manual_seed(4)
        with step.scope():
            found = step.loss().logits == 0
        torch.manual_seed(4)
        (plain_step,) = pgd_at(model).steps(batch, PROGRESS, streams)
        assert torch.equal(found, plain_step.loss().logits == 0)

    def test_half_precision_sees_the_perturbed_weights(self):
        """Autocast keeps the weights it has cast; a perturbation that it does not see would change nothing."""
        model, (batch, streams) = tiny_net(), setting()
        (step,) = WeightPerturbed(pgd_at(model), gamma=0.5).steps(batch, PROGRESS, streams)
        with torch.autocast("cpu", torch.bfloat16):
            before = step.loss().total
            with step.scope():
                inside = step.loss().total
                at = copy.deepcopy(model)
            expected = pgd_at(at).loss(batch, step.adversarial, PROGRESS, streams).total
            after = step.loss().total
        assert inside > before + 0.01
        torch.testing.assert_close(inside, expected)
        assert torch.equal(before, after)

    @pytest.mark.parametrize("precision", ["bf16-mixed", "32-true"])
    def test_the_loop_takes_it_in_every_precision(self, precision):
        settings = LoopSettings(
            epochs=2, batch_size=16, lr=0.02, precision=precision, selection=SelectionSettings(keep="last")
        )
        fabric = Fabric(accelerator="cpu", devices=1, precision=precision)
        model = tiny_net()
        before = weights(model)
        result = fit(WeightPerturbed(trades(model), 0.05), ToySource(), settings, fabric)
        assert result.history[-1]["loss"] < result.history[0]["loss"]
        assert not same(before, weights(model))


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("make", [pgd_at, trades, lambda m: Mart(m, PGD(THREAT, steps=2, keep="last")), causaladv])
def test_gamma_0_and_the_warmup_are_the_host_exactly(make, norm):
    def trained(wrap):
        model = SplitNet(norm=norm)
        settings = LoopSettings(epochs=2, batch_size=32, lr=0.02, selection=SelectionSettings(keep="last"))
        objective = wrap(make(model))
        fit(objective, ToySource(), settings)
        return [v.clone() for player in objective.players().values() for v in player.state_dict().values()]

    host = trained(lambda o: o)
    assert same(host, trained(lambda o: WeightPerturbed(o, 0.0)))
    assert same(host, trained(lambda o: WeightPerturbed(o, 0.1, warmup=1.0)))
    assert not same(host, trained(lambda o: WeightPerturbed(o, 0.1, warmup=0.5)))


def test_the_warmup_counts_epochs():
    model, (batch, streams) = tiny_net(), setting()
    objective = WeightPerturbed(pgd_at(model), 0.1, warmup=10 / 120)
    for epoch, moves in ((0, False), (9, False), (10, True), (119, True)):
        before = weights(model)
        (step,) = objective.steps(batch, Progress(epoch=epoch, epochs=120, step=3, steps=4), streams)
        with step.scope():
            assert same(before, weights(model)) != moves


def test_causaladv_keeps_its_order_and_its_style_step_its_weights():
    model, (batch, streams) = SplitNet(), setting()
    objective = WeightPerturbed(causaladv(model), 0.1)
    before, taken = weights(model), []
    for step in objective.steps(batch, PROGRESS, streams):
        taken.append(step.player)
        with step.scope():
            step.loss()
            assert same(before, weights(model)) == (step.player == "style")
    assert taken == ["style", "model"]
    assert objective.declared_attacks()
    assert isinstance(objective, AdversarialObjective)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda m: WeightPerturbed(Standard(m)),
            "awp: got 'Standard'; expected an objective with an adversarial example",
        ),
        (lambda m: WeightPerturbed(Game(m, m)), "awp: got 'Game'"),
        (lambda m: WeightPerturbed(pgd_at(m), -0.1), "gamma: got -0.1; expected a number of at least 0"),
        (lambda m: WeightPerturbed(pgd_at(m), float("nan")), "gamma: got nan"),
        (lambda m: WeightPerturbed(pgd_at(m), 0.1, 2.0), "warmup: got 2.0"),
    ],
)
def test_bad_input(make, message):
    with pytest.raises(InputError, match=message):
        make(tiny_net())
