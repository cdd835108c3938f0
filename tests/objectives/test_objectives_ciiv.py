"""CiiV's losses and schedule, with adversarial training and with mixup."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from deconfound.attacks import FGSM, PGD
from deconfound.core.streams import Streams
from deconfound.core.threat import ThreatModel
from deconfound.core.types import Batch, Progress
from deconfound.errors import InputError
from deconfound.functional.consistency import consistency, pooled
from deconfound.functional.mixing import mix
from deconfound.models.ciiv import CiiV
from deconfound.models.ciiv_surrogates import SampledSurrogate
from deconfound.models.sampler import Sampling
from deconfound.objectives.cafe import Inoculated
from deconfound.objectives.ciiv import CiiVAdversarialTraining, CiiVTraining, ViewLoss
from inoculated import ATTACK, INVERSION, reference
from toys import SplitNet, ToySource, tiny_net

BEGIN = Progress(epoch=0, epochs=110)


class Fixed(nn.Module):
    """Known features, logits and exposure, which depend on the images and their views' number alone."""

    def __init__(self, views=3):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.count = views
        self.streams = []

    def views(self, images, streams):
        self.streams.append(streams)
        number = torch.arange(1.0, self.count + 1).view(-1, 1, 1)
        features = number.sqrt() * self.scale * images.flatten(1)[None, :, :6]
        logits = number * images.flatten(1)[None, :, :4] * self.scale
        return features, logits, (0.5 + 0.1 * number[:, :, 0]).expand(-1, len(images))


@pytest.fixture
def batch():
    return next(ToySource(12, 4).batches([torch.arange(12)]))


@pytest.fixture
def streams(batch):
    return Streams(0, batch.index)


def network(**settings):
    return CiiV(SplitNet(channels=3), Sampling(**settings), channels=1, size=8, mean=0.5, std=0.25)


class TestLoss:
    @pytest.mark.parametrize("distance", ["smooth_l1", "l2"])
    @pytest.mark.parametrize("against", ["others", "all"])
    def test_by_hand(self, batch, streams, distance, against):
        model = Fixed()
        loss = ViewLoss(ce_weight=0.5, weight=2.0, distance=distance, against=against)
        found = loss(model, batch.images, batch.labels, BEGIN, streams)
        features, logits, exposure = model.views(batch.images, streams)
        crossed = torch.stack([F.cross_entropy(each, batch.labels) for each in logits]).mean()
        apart = consistency(features, exposure, distance, against).mean()
        torch.testing.assert_close(found.total, 0.5 * crossed + 2 * apart)
        torch.testing.assert_close(found.logits, (logits / exposure[..., None]).mean(dim=0).detach())
        assert found.parts.keys() == {"cross_entropy", "consistency", "consistency_weight"}
        assert float(found.parts["consistency"]) == pytest.approx(float(apart.detach()))

    def test_stairs(self):
        toy = ViewLoss(stairs=(5 / 7,))
        assert [round(toy.weight_at(Progress(epoch=e, epochs=7)), 9) for e in range(7)] == [0.1] * 5 + [1.0] * 2
        loss = ViewLoss()
        weights = [loss.weight_at(Progress(epoch=e, epochs=110, step=3, steps=9)) for e in range(110)]
        assert [e for e in range(1, 110) if weights[e] > 5 * weights[e - 1]] == [25, 50, 75]
        assert weights[-1] == pytest.approx(100)

    def test_without_weight_one_view_is_enough(self, batch, streams):
        found = ViewLoss(weight=0)(Fixed(1), batch.images, batch.labels, BEGIN, streams)
        assert found.parts.keys() == {"cross_entropy"}
        assert torch.isfinite(found.total)
        with pytest.raises(InputError, match=r"^loops: got 1; expected at least 2 with a consistency term"):
            ViewLoss()(Fixed(1), batch.images, batch.labels, BEGIN, streams)

    def test_the_gradient_reaches_both_sides(self):
        """With the bars held fixed the numerical derivative would differ."""
        features = torch.randn(3, 2, 4, dtype=torch.float64, requires_grad=True)
        exposure = torch.rand(3, 2, dtype=torch.float64) + 0.5
        assert torch.autograd.gradcheck(lambda f: consistency(f, exposure, "l2"), (features,))

    @pytest.mark.parametrize(
        ("settings", "line"),
        [
            ({"weight": -1}, "weight: got -1; expected a number of at least 0"),
            ({"mixup": float("nan")}, "mixup: got nan"),
            ({"stairs": (0.5, 0.2)}, r"stairs: got \(0.5, 0.2\); expected shares of training"),
            ({"stairs": (25.0,)}, "stairs: got"),
            ({"distance": "l1"}, "distance: got 'l1'; expected one of smooth_l1, l2"),
            ({"against": "none"}, "against: got 'none'"),
        ],
    )
    def test_bad_settings(self, settings, line):
        with pytest.raises(InputError, match=f"^{line}"):
            ViewLoss(**settings)

    def test_a_network_without_views(self):
        for make in (CiiVTraining, lambda m: CiiVAdversarialTraining(m, PGD(ThreatModel("linf", 0.1), keep="last"))):
            with pytest.raises(InputError, match=r"^model: got 'Sequential'; expected a network that looks"):
                make(tiny_net())


class TestMixup:
    def test_views_are_of_the_mixed_images_and_answer_for_both_labels(self, batch, streams):
        model = Fixed()
        found = ViewLoss(weight=0, mixup=0.7)(model, batch.images, batch.labels, BEGIN, streams)
        mixed, partner, weight = mix(batch.images, streams.fold("mixup"), 0.7)
        _, logits, _ = model.views(mixed, streams)
        each = [F.cross_entropy(logits[v], batch.labels, reduction="none") for v in range(3)]
        other = [F.cross_entropy(logits[v], batch.labels[partner], reduction="none") for v in range(3)]
        expected = (weight * torch.stack(each) + (1 - weight) * torch.stack(other)).mean()
        torch.testing.assert_close(found.total, expected)
        assert (mixed != batch.images).any()

    def test_logits_of_mixed_images_are_not_handed_on(self, batch, streams):
        """They are of no one label, and not those of the adversarial images; the accuracy counts both labels."""
        found = ViewLoss(mixup=0.7)(model := Fixed(), batch.images, batch.labels, BEGIN, streams)
        assert found.logits is None
        assert found.adversarial is None
        mixed, partner, weight = mix(batch.images, streams.fold("mixup"), 0.7)
        _, logits, exposure = model.views(mixed, streams)
        predicted = pooled(logits, exposure).argmax(dim=1)
        soft = weight[:, None] * F.one_hot(batch.labels, 4) + (1 - weight)[:, None] * F.one_hot(
            batch.labels[partner], 4
        )
        expected = soft[range(12), predicted].mean()
        torch.testing.assert_close(found.parts["accuracy"], expected)
        assert expected != (predicted == batch.labels).float().mean()

    @pytest.mark.parametrize("mixup", [0.0, 1.0])
    def test_inoculation_of_a_host_that_mixes_looks_at_the_adversarial_images(self, streams, batch, mixup):
        """The causal KL has the model's prediction for x~ by the numbers of the host's own views, not for a mixture."""
        host = CiiVAdversarialTraining(network(loops=2), ATTACK, loss=ViewLoss(mixup=mixup))
        objective = Inoculated(host, reference(), INVERSION)
        (step,) = objective.steps(batch, BEGIN, streams)
        found = step.loss()
        seen = []
        for images in (step.adversarial, objective.invert(batch.images, batch.labels, step.adversarial, streams)):
            _, logits, exposure = host.model.views(images, streams.fold("views"))
            seen.append(pooled(logits, exposure).log_softmax(dim=1))
        expected = (seen[0].exp() * (seen[0] - seen[1])).sum(dim=1).mean()
        torch.testing.assert_close(found.parts["causal_kl"], expected.detach())
        assert expected > 0

    def test_with_a_network(self, batch, streams):
        objective = CiiVTraining(network(), ViewLoss(mixup=1.0))
        (step,) = objective.steps(batch, BEGIN, streams)
        first = step.loss()
        first.total.backward()
        assert torch.equal(first.total, step.loss().total)
        assert all(p.grad is not None for p in objective.model.parameters())


class TestAdversarial:
    @pytest.mark.parametrize("norm", ["linf", "l2"])
    def test_pgd_climbs_surrogate_a_with_fresh_draws(self, batch, streams, norm):
        model = network(loops=2)
        threat = ThreatModel(norm, 0.2 if norm == "linf" else 1.0)
        climbed = SampledSurrogate(model)
        keys, draw = [], climbed.draw

        def heard(images, given, draws):
            keys.append((given._keys.tolist(), draws))
            return draw(images, given, draws)

        climbed.draw = heard
        objective = CiiVAdversarialTraining(model, PGD(threat, steps=3, keep="last"), climbed)
        made = objective.craft(batch, BEGIN, streams)
        assert threat.contains(made, batch.images).all()
        assert [draws for _, draws in keys] == [1, 1, 1]
        assert len({tuple(k) for k, _ in keys}) == 3
        assert torch.equal(made, objective.craft(batch, BEGIN, streams))

    @pytest.mark.parametrize("raw", [False, True])
    def test_the_inner_attack_raises_the_expected_loss(self, streams, raw):
        """On two hundred images and a shallow network, whose raw gradient has the right sign wherever it is not 0."""
        source = ToySource(200, 4)
        batch = Batch(source.images, source.labels, torch.arange(200))
        streams = Streams(0, batch.index)
        model = network(loops=3)
        attack = PGD(ThreatModel("linf", 0.1), steps=3, keep="last")
        made = CiiVAdversarialTraining(model, attack, None if raw else SampledSurrogate(model))
        attacked = made.craft(batch, BEGIN, streams)
        with torch.no_grad():
            drawn = [model.draw(x, streams.fold("judge"), 20).flatten(0, 1) for x in (batch.images, attacked)]
        found = [float(F.cross_entropy(logits, batch.labels.repeat(20))) for logits in drawn]
        assert found[1] > found[0] + 0.01, found

    def test_without_a_surrogate_it_climbs_the_model(self, batch, streams):
        model = network(loops=2)
        objective = CiiVAdversarialTraining(model, FGSM(ThreatModel("linf", 0.1), keep="last"))
        assert objective.climbed is model
        made = objective.craft(batch, BEGIN, streams)
        loss = objective.loss(batch, made, BEGIN, streams)
        expected = ViewLoss()(model, made, batch.labels, BEGIN, streams)
        torch.testing.assert_close(loss.total, expected.total)
        assert float((made - batch.images).abs().max()) == pytest.approx(0.1, rel=1e-4)

    def test_a_warmup_out_of_range(self):
        with pytest.raises(InputError, match=r"^warmup: got 2"):
            CiiVAdversarialTraining(network(), FGSM(ThreatModel("linf", 0.1), keep="last"), warmup=2)
