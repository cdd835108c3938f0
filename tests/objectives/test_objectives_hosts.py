"""MART, HAT and training under noise against the same step written by hand, and the authors' numbers."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from deconfound.attacks import PGD
from deconfound.attacks.losses import kl_to_reference
from deconfound.core.streams import Streams
from deconfound.core.threat import ThreatModel
from deconfound.core.types import Progress
from deconfound.errors import InputError
from deconfound.functional.losses import boosted_cross_entropy, doubted_kl, kl_divergence
from deconfound.models import Smoothed
from deconfound.models.style_branch import StyleBranch
from deconfound.objectives import CausalAdv, Help, Mart, Smoothing, Standard, Trades, WeightPerturbed
from deconfound.objectives.styled import StyleLoss
from deconfound.training import LoopSettings, SelectionSettings, fit
from toys import SplitNet, ToySource, tiny_net

THREAT = ThreatModel("linf", 0.1)
PROGRESS = Progress(epoch=1, epochs=4)
LABELS = torch.tensor([0, 3, 1, 4, 2, 0])


def setting(count=12):
    batch = next(ToySource(count).batches([torch.arange(count)]))
    return batch, Streams(5, batch.index)


def logits(seed, scale=3.0, dtype=torch.float64):
    return scale * torch.randn(6, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def mart(model, weight=5.0):
    return Mart(model, PGD(THREAT, steps=3, keep="last"), weight)


def trades(model):
    return Trades(model, PGD(THREAT, steps=3, keep="last", loss=kl_to_reference, start="gaussian"), beta=2.5)


def gradients(model, total):
    return torch.autograd.grad(total, list(model.parameters()))


def mart_by_hand(clean, perturbed, labels, weight):
    p, q = clean.softmax(1), perturbed.softmax(1)
    total = 0.0
    for i, y in enumerate(labels.tolist()):
        second = max(float(q[i, k]) for k in range(q.shape[1]) if k != y)
        boosted = -math.log(float(q[i, y])) - math.log(1.0001 - second + 1e-12)
        kl = sum(float(a) * (math.log(float(a)) - math.log(float(b) + 1e-12)) for a, b in zip(p[i], q[i], strict=True))
        total += boosted + weight * kl * (1.0000001 - float(p[i, y]))
    return total / len(labels)


class TestMart:
    def test_the_authors_loss(self, shared):
        golden = np.load(shared / "golden" / "cafe_losses.npz")
        z, a, y = (torch.tensor(golden[k]) for k in ("logits", "logits_adversarial", "labels"))
        found = boosted_cross_entropy(a, y).mean() + 3 * doubted_kl(z, a, y).mean()
        assert abs(float(found) - float(golden["mart_lambda3"])) <= 1e-5 * abs(float(golden["mart_lambda3"]))

    def test_the_terms_by_hand(self):
        z, a = logits(0), logits(1)
        found = boosted_cross_entropy(a, LABELS).mean() + 5 * doubted_kl(z, a, LABELS).mean()
        assert float(found) == pytest.approx(mart_by_hand(z, a, LABELS, 5), rel=1e-12)
        assert float((kl_divergence(z, a) - doubted_kl(z, a, LABELS)).min()) > 0

    def test_gradients_pass_the_numerical_check(self):
        z, a = logits(2, 1.0).requires_grad_(), logits(3, 1.0).requires_grad_()
        others = a.detach().scatter(1, LABELS[:, None], -torch.inf).topk(2, dim=1).values
        assert float((others[:, 0] - others[:, 1]).min()) > 1e-3  # away from ties, where the maximum has a kink
        assert torch.autograd.gradcheck(lambda x: boosted_cross_entropy(x, LABELS), (a,))
        assert torch.autograd.gradcheck(lambda x, w: doubted_kl(x, w, LABELS), (z, a))

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_saturated_logits_are_finite_with_their_gradients(self, dtype):
        z = torch.tensor([[1e4, -1e4, 0.0], [-1e4, 1e4, 0.0], [1e4, -1e4, 0.0]], dtype=dtype, requires_grad=True)
        a = torch.tensor([[1e4, -1e4, 0.0], [1e4, -1e4, 0.0], [-1e4, 1e4, 0.0]], dtype=dtype, requires_grad=True)
        labels = torch.tensor([0, 0, 0])
        boosted, doubted = boosted_cross_entropy(a, labels), doubted_kl(z, a, labels)
        floor = -math.log(1e-12)
        torch.testing.assert_close(doubted, torch.tensor([0.0, floor, 1e-7 * floor], dtype=dtype), rtol=0.3, atol=1e-6)
        torch.testing.assert_close(boosted[2], torch.tensor(2e4 - math.log(1e-4), dtype=dtype), rtol=1e-4, atol=0.1)
        for g in torch.autograd.grad((boosted + doubted).sum(), [z, a]):
            assert torch.isfinite(g).all()

    def test_half_precision_is_computed_in_full(self):
        z, a = logits(4, dtype=torch.bfloat16), logits(5, dtype=torch.bfloat16)
        assert boosted_cross_entropy(a, LABELS).dtype == doubted_kl(z, a, LABELS).dtype == torch.float32

    def test_the_step(self):
        model, (batch, streams) = tiny_net(norm=True), setting()
        reference = copy.deepcopy(model)
        (step,) = mart(model).steps(batch, PROGRESS, streams)
        loss = step.loss()
        clean, perturbed = reference(batch.images), reference(step.adversarial)
        by_hand = mart_by_hand(clean.detach(), perturbed.detach(), batch.labels, 5)
        assert loss.total.item() == pytest.approx(by_hand, rel=1e-5)
        total = (boosted_cross_entropy(perturbed, batch.labels) + 5 * doubted_kl(clean, perturbed, batch.labels)).mean()
        for ours, theirs in zip(gradients(model, loss.total), gradients(reference, total), strict=True):
            torch.testing.assert_close(ours, theirs)
        assert torch.equal(loss.logits, perturbed.detach())
        assert model[1].num_batches_tracked.item() == 2

    def test_its_images_are_those_of_pgd_on_cross_entropy(self):
        model, (batch, streams) = tiny_net(), setting()
        made = mart(model).craft(batch, PROGRESS, streams)
        expected = PGD(THREAT, steps=3, keep="last")(model, batch.images, batch.labels, streams.fold("craft"))
        assert torch.equal(made, expected)


class TestHelp:
    def test_the_step_is_the_host_and_the_helpers(self):
        model, standard, (batch, streams) = tiny_net(norm=True), tiny_net(seed=9, norm=True), setting()
        settings = LoopSettings(epochs=3, batch_size=16, lr=0.02, selection=SelectionSettings(keep="last"))
        fit(Standard(standard), ToySource(), settings)
        reference = copy.deepcopy(model)
        objective = Help(trades(model), standard.train(), gamma=0.7, reach=2.0)
        (step,) = objective.steps(batch, PROGRESS, streams)
        loss = step.loss()
        x, made = batch.images, step.adversarial
        clean, perturbed, helped = reference(x), reference(made), reference(2 * made - x)
        seen = copy.deepcopy(standard).eval()(made).argmax(1)
        assert len(set(seen.tolist())) > 1
        host = F.cross_entropy(clean, batch.labels) + 2.5 * kl_divergence(clean, perturbed).mean()
        total = host + 0.7 * F.cross_entropy(helped, seen)
        torch.testing.assert_close(loss.total, total)
        for ours, theirs in zip(gradients(model, loss.total), gradients(reference, total), strict=True):
            torch.testing.assert_close(ours, theirs)
        assert model[1].num_batches_tracked.item() == 3

    def test_the_standard_network_never_changes(self):
        model, standard = tiny_net(norm=True), tiny_net(seed=9, norm=True)
        before = [value.clone() for value in standard.state_dict().values()]
        settings = LoopSettings(epochs=2, batch_size=16, lr=0.05, selection=SelectionSettings(keep="last"))
        result = fit(WeightPerturbed(Help(trades(model), standard), 0.05), ToySource(), settings)
        assert all(torch.equal(a, b) for a, b in zip(before, standard.state_dict().values(), strict=True))
        assert all(torch.equal(a, b) for a, b in zip(before, result.players["standard"].values(), strict=True))
        assert "helper" in result.history[0]

    def test_gamma_0_is_the_host_exactly(self):
        def trained(wrap):
            model = tiny_net(norm=True)
            settings = LoopSettings(epochs=2, batch_size=16, lr=0.05, selection=SelectionSettings(keep="last"))
            return fit(wrap(trades(model)), ToySource(), settings).model

        host, helped = trained(lambda o: o), trained(lambda o: Help(o, tiny_net(seed=9), gamma=0))
        assert all(torch.equal(host[name], helped[name]) for name in host)

    def test_an_ordered_host_keeps_its_order(self):
        model, (batch, streams) = SplitNet(), setting()
        attack = PGD(THREAT, steps=2, keep="last", loss=StyleLoss())
        host = CausalAdv(model, StyleBranch(16, 4, seed=0), attack)
        objective = Help(host, tiny_net(seed=9))
        assert objective.players().keys() == {"model", "style", "standard"}
        losses = [(step.player, step.loss()) for step in objective.steps(batch, PROGRESS, streams)]
        assert [player for player, _ in losses] == ["style", "model"]
        assert "helper" not in losses[0][1].parts
        assert {"helper", "style_shift"} <= losses[1][1].parts.keys()

    def test_a_host_that_does_not_hand_its_images_on_is_helped_with_the_same_ones(self, monkeypatch):
        (batch, streams), totals = setting(), []
        for silent in (False, True):
            host = trades(tiny_net())
            steps = host.steps

            def silenced(*arguments, steps=steps):
                return (replace(step, adversarial=None) for step in steps(*arguments))

            if silent:
                monkeypatch.setattr(host, "steps", silenced)
            (step,) = Help(host, tiny_net(seed=9)).steps(batch, PROGRESS, streams)
            loss = step.loss()
            assert "helper" in loss.parts
            totals.append(loss.total)
        assert torch.equal(*totals)


class TestSmoothing:
    def test_the_step_is_cross_entropy_under_the_noise_of_the_network(self):
        inner, (batch, streams) = tiny_net(), setting()
        model = Smoothed(inner, 0.3)
        (step,) = Smoothing(model).steps(batch, PROGRESS, streams)
        loss = step.loss()
        noisy = batch.images + 0.3 * streams.fold("noise").fold("draw", 0).normal((1, 8, 8))
        torch.testing.assert_close(loss.total, F.cross_entropy(inner(noisy), batch.labels))
        assert step.adversarial is None

    def test_noise_is_gaussian_of_sigma(self):
        """Mean and variance of 49 152 numbers: bounds at five standard errors, wrong by chance once in 10^6."""
        model = Smoothed(torch.nn.Identity(), 0.5)
        model.inner = torch.nn.Flatten()
        images = torch.full((16, 3, 16, 16), 0.5)
        noise = model.draw(images, Streams(1, range(16)), 4) - 0.5
        count = noise.numel()
        assert abs(float(noise.mean())) < 5 * 0.5 / math.sqrt(count)
        assert abs(float(noise.var()) / 0.25 - 1) < 5 * math.sqrt(2 / count)

    def test_draws_do_not_depend_on_the_company(self):
        model, streams = Smoothed(torch.nn.Flatten(), 0.5), Streams(3, range(300))
        images = torch.rand(300, 1, 2, 2, generator=torch.Generator().manual_seed(0))
        together = model.draw(images, streams, 5)
        place = torch.tensor([7, 250])
        assert torch.equal(model.draw(images[place], streams[place], 600)[:5], together[:, place])
        assert torch.equal(model.draw(images, streams, 2, first=3), together[3:])
        assert torch.equal(model(images, streams), together[0])
        assert not torch.equal(together[0], together[1])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda m: mart(m, -1), "weight: got -1; expected a number of at least 0"),
        (lambda m: Mart(m, PGD(THREAT), warmup=2), "warmup: got 2"),
        (lambda m: Help(Standard(m), m), "host: got 'Standard'; expected an objective with an adversarial example"),
        (
            lambda m: Help(Help(mart(m), tiny_net()), tiny_net()),
            "host: got 'Help'; expected one without a player named",
        ),
        (lambda m: Help(mart(m), tiny_net(), gamma=-1), "gamma: got -1"),
        (lambda m: Help(mart(m), tiny_net(), reach=1), "reach: got 1; expected a number above 1"),
        (lambda m: Smoothing(m), "model: got 'Sequential'; expected a classifier under noise"),
        (lambda m: Smoothed(m, 0), "sigma: got 0; expected a number above 0"),
    ],
)
def test_bad_input(make, message):
    with pytest.raises(InputError, match=message):
        make(tiny_net())
