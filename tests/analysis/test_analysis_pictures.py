"""Feature pictures reach their features, and integrated gradients add up to the logit."""

from __future__ import annotations

import builtins
import math

import pytest
import torch
from torch import nn

from deconfound.analysis import Matching, integrated_gradients, kind_residuals, make_pictures, match_features
from deconfound.analysis.matching import cosine, frequency_scale, from_spectrum, shifted, total_variation
from deconfound.analysis.pictures import TARGETS
from deconfound.analysis.saliency import heat
from deconfound.attacks import PGD
from deconfound.core.origin import Origin
from deconfound.core.streams import Streams
from deconfound.core.threat import ThreatModel
from deconfound.errors import InputError
from deconfound.models import CausalFeatureMap
from deconfound.records import Machine
from toys import SplitNet, ToySource

QUICK = Matching(steps=60)


class Linear(nn.Module):
    """Features W x, fewer than pixels; logits V features."""

    def __init__(self, pixels=64, width=12, classes=4, seed=0):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.wide = nn.Parameter(torch.randn(width, pixels, generator=generator))
        self.last = nn.Parameter(torch.randn(classes, width, generator=generator))

    def features(self, images):
        return images.flatten(1) @ self.wide.T

    def head(self, features):
        return features @ self.last.T

    def forward(self, images):
        return self.head(self.features(images))


class Residual(nn.Module):
    """A linear h or g: a multiple of the feature, and a little of every other one."""

    def __init__(self, scale, width=12, seed=0):
        super().__init__()
        mixing = torch.randn(width, width, generator=torch.Generator().manual_seed(seed)) / (10 * width**0.5)
        self.weight = nn.Parameter(scale * torch.eye(width) + mixing)

    def forward(self, features):
        return features @ self.weight.T


def pictured(model, source=None, index=None, **settings):
    source = source or ToySource()
    machine = Machine(device="cpu", processor="x", threads=1, versions={})
    origin = Origin(
        model="m", model_digest="d", data=source.name, data_digest="e", class_names=source.class_names, machine=machine
    )
    attack = PGD(ThreatModel("linf", 0.1), steps=3, keep="last")
    index = torch.arange(len(source)) if index is None else index
    return make_pictures(model, source, index, attack, origin, **({"matching": QUICK} | settings))


class TestMatching:
    def test_a_linear_model_is_matched(self):
        """Cosine above 0.95 for every image with the settings of the command, which shift it at random; else 0.999."""
        model, source = Linear(), ToySource(count=4)
        wanted = model.features(source.images).detach()
        streams = Streams(0, range(4))
        found = match_features(model.features, wanted, source.shape, streams)
        assert float(found.min()) >= 0
        assert float(found.max()) <= 1
        assert float(cosine(model.features(found).detach(), wanted).min()) > 0.95
        still = match_features(model.features, wanted, source.shape, streams, Matching(jitter=0, tv=0.0, steps=400))
        assert float(cosine(model.features(still).detach(), wanted).min()) > 0.999

    def test_each_image_is_searched_for_by_itself(self):
        model, source = Linear(), ToySource(count=4)
        wanted = model.features(source.images).detach()
        together = match_features(model.features, wanted, source.shape, Streams(0, range(4)), QUICK)
        alone = match_features(model.features, wanted[2:3], source.shape, Streams(0, [2]), QUICK)
        assert torch.allclose(together[2:3], alone, atol=1e-4)
        other = match_features(model.features, wanted[2:3], source.shape, Streams(1, [2]), QUICK)
        assert not torch.allclose(alone, other, atol=1e-4)

    def test_more_total_variation_is_smoother(self):
        model, source = Linear(), ToySource(count=4)
        wanted, streams = model.features(source.images).detach(), Streams(0, range(4))
        rough, smooth = (
            match_features(model.features, wanted, source.shape, streams, Matching(steps=60, tv=tv))
            for tv in (0.0, 5.0)
        )
        assert bool((total_variation(smooth) < total_variation(rough)).all())

    @pytest.mark.parametrize("size", [(8, 8), (7, 10), (9, 5), (1, 6)])
    def test_any_size_and_its_spectrum(self, size):
        scale = frequency_scale(*size)
        assert scale.shape == (size[0], size[1] // 2 + 1)
        assert bool((scale > 0).all())
        assert float(scale.max()) == float(scale[0, 0])
        images = from_spectrum(torch.zeros(2, 3, *scale.shape, 2), scale, size)
        assert images.shape == (2, 3, *size)
        assert torch.allclose(images, torch.full_like(images, 0.5))

    def test_shifts_are_by_the_pixel_and_the_images_own(self):
        images, streams = torch.rand(6, 2, 5, 7), Streams(3, range(6))
        moved, moves = shifted(images, streams, 2), streams.integers(-2, 3, (2,))
        assert len({tuple(move) for move in moves.tolist()}) > 1
        for image, found, (down, across) in zip(images, moved, moves.tolist(), strict=True):
            rows = [min(max(i + down, 0), 4) for i in range(5)]
            columns = [min(max(i + across, 0), 6) for i in range(7)]
            assert torch.equal(found, image[:, rows][:, :, columns])

    @pytest.mark.parametrize("bad", [{"steps": 0}, {"lr": 0}, {"jitter": -1}, {"tv": -1.0}, {"tv": math.inf}])
    def test_odd_settings(self, bad):
        with pytest.raises(InputError, match=f"^{next(iter(bad))}: got"):
            Matching(**bad)

    def test_parameters_get_no_gradient(self):
        model = Linear()
        match_features(model.features, torch.ones(1, 12), (1, 8, 8), Streams(0, [0]), Matching(steps=2))
        assert model.wide.grad is None


class TestSaliency:
    def test_of_a_linear_model_it_is_weight_times_pixel(self):
        model, source = Linear(), ToySource(count=4)
        found = integrated_gradients(model, source.images, source.labels)
        weight = (model.last @ model.wide).detach()[source.labels].view_as(source.images)
        assert torch.allclose(found.values, weight * source.images, atol=1e-4)
        assert float(found.error.abs().max()) < 1e-4

    def test_completeness_of_a_network(self):
        """The sum of attributions is the difference of logits: on ReLU up to a fiftieth of all attributions."""
        model, source = SplitNet(seed=3), ToySource(count=8)
        found = integrated_gradients(model, source.images, source.labels)
        with torch.no_grad():
            ends = [model(x).gather(1, source.labels[:, None])[:, 0] for x in (source.images, 0 * source.images)]
        assert torch.allclose(found.difference, (ends[0] - ends[1]).double(), atol=1e-6)
        assert torch.allclose(found.values.flatten(1).sum(1).double(), found.difference + found.error)
        assert float((found.error / found.values.abs().flatten(1).sum(1)).abs().max()) < 0.02

    def test_completeness_of_a_smooth_network(self):
        """In float64 to nine digits."""
        source = ToySource(count=8)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.Tanh(), nn.Linear(16, 4)).double()
        found = integrated_gradients(model, source.images.double(), source.labels)
        assert float(found.error.abs().max()) < 1e-9
        assert float(found.difference.abs().min()) > 1e-4

    def test_more_points_are_more_complete(self):
        model, source = SplitNet(seed=3), ToySource(count=8)
        coarse, fine = (
            float(integrated_gradients(model, source.images, source.labels, steps=steps).error.abs().max())
            for steps in (2, 128)
        )
        assert fine < coarse

    def test_colours(self):
        values = torch.tensor([[[1.0, 0.0], [0.0, -1.0]]])
        found = heat(values)
        assert found.shape == (3, 2, 2)
        blue, white, orange = found[:, 0, 0], found[:, 0, 1], found[:, 1, 1]
        assert blue[2] > blue[0]
        assert white.tolist() == [1, 1, 1]
        assert orange[0] > orange[2]

    def test_without_the_library(self, monkeypatch):
        imported = builtins.__import__

        def missing(name, *rest):
            if name.startswith("captum"):
                raise ModuleNotFoundError(name)
            return imported(name, *rest)

        monkeypatch.setattr(builtins, "__import__", missing)
        with pytest.raises(InputError, match=r"^captum: got 'ModuleNotFoundError'; .*pip install captum"):
            pictured(Linear())


class TestARecord:
    def test_what_it_says_is_what_the_network_says(self):
        model, source = Linear(), ToySource()
        record = pictured(model, source, seed=2)
        assert [image.label for image in record.images] == [0, 1, 2, 3]
        assert (record.n, record.dimension, record.integration["steps"]) == (4, 12, 64)
        (batch,) = source.batches([torch.tensor([image.index for image in record.images])])
        attack = PGD(ThreatModel("linf", 0.1), steps=3, keep="last")
        moved = attack(model, batch.images, batch.labels, Streams(2, batch.index).fold("analysis", attack.name))
        with torch.no_grad():
            before, after = model(batch.images).argmax(1).tolist(), model(moved).argmax(1).tolist()
        assert [image.prediction for image in record.images] == before
        assert [image.adversarial_prediction for image in record.images] == after
        for place, image in enumerate(record.images):
            assert [picture.kind for picture in image.features] == ["natural", "adversarial"]
            assert [picture.decoded for picture in image.features] == [before[place], after[place]]
            assert min(picture.cosine for picture in image.features) > 0.9
            assert abs(image.saliency.error) < 1e-3

    def test_further_kinds_of_features(self):
        targets = dict(TARGETS) | {"between": lambda natural, adversarial: (natural + adversarial) / 2}
        record = pictured(Linear(), targets=targets)
        assert [picture.kind for picture in record.images[0].features] == ["natural", "adversarial", "between"]

    def test_causal_kinds_of_a_linear_model_are_reached(self):
        """AC = F + h(Z) and CF = F + g(Z) too: without shifts a cosine above 0.99, the class of the head."""
        model = Linear()
        h, g = Residual(0.7, seed=1), Residual(-0.5, seed=2)
        causal = CausalFeatureMap(model, h)

        def of(kind):
            return lambda natural, adversarial: natural + kind_residuals(causal, g, adversarial - natural)[kind]

        targets = dict(TARGETS) | {kind: of(kind) for kind in ("adversarial_causal", "counterfactual")}
        record = pictured(model, targets=targets, matching=Matching(jitter=0, tv=0.0, steps=300))
        source = ToySource()
        for image in record.images:
            assert [picture.kind for picture in image.features] == list(targets)
            assert min(picture.cosine for picture in image.features) > 0.99
            x = source.images[image.index : image.index + 1]
            attack = PGD(ThreatModel("linf", 0.1), steps=3, keep="last")
            labels = source.labels[image.index : image.index + 1]
            moved = attack(model, x, labels, Streams(0, [image.index]).fold("analysis", attack.name))
            with torch.no_grad():
                z = model.features(moved) - model.features(x)
                decoded = [int(model.head(model.features(x) + net(z)).argmax()) for net in (h, g)]
            assert [picture.decoded for picture in image.features[2:]] == decoded

    def test_the_network_comes_back_as_it_was(self):
        model = SplitNet(norm=True).train()
        before = {name: value.clone() for name, value in model.state_dict().items()}
        pictured(model, matching=Matching(steps=2))
        assert model.training
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
        assert all(p.requires_grad and p.grad is None for p in model.parameters())

    def test_one_image_not_square_in_colour_a_thousand_classes(self):
        class Wide(ToySource):
            def __init__(self):
                super().__init__()
                self.images, self.shape = torch.rand(64, 3, 6, 10), (3, 6, 10)
                self.class_names = tuple(map(str, range(1000)))

        record = pictured(Linear(pixels=180, classes=1000), Wide(), torch.tensor([5]), matching=Matching(steps=3))
        assert (record.n, record.images[0].index) == (1, 5)

    @pytest.mark.parametrize("size", [(2, 12), (4, 11)])
    def test_targets_of_another_shape(self, size):
        with pytest.raises(InputError, match=r"^targets: odd: got"):
            pictured(Linear(), targets={"odd": lambda natural, adversarial: torch.zeros(size)})

    def test_bad_input(self):
        with pytest.raises(InputError, match=r"^targets: got 0"):
            pictured(Linear(), targets={})
        with pytest.raises(InputError, match="K of at least 2"):
            pictured(Linear(classes=1))
