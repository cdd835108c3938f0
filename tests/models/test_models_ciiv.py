"""CiiV: views, draws, surrogates."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from deconfound import models
from deconfound.core.protocols import (
    DeclaresSurrogates,
    FeatureSplit,
    Looping,
    StochasticClassifier,
    ViewedClassifier,
)
from deconfound.core.streams import Streams
from deconfound.errors import InputError
from deconfound.functional import losses
from deconfound.functional.consistency import consistency, pooled
from deconfound.models.ciiv import CiiV
from deconfound.models.ciiv_surrogates import ExpectedSurrogate, SampledSurrogate, ViewedLoss
from deconfound.models.sampler import Sampler, Sampling
from toys import SplitNet

SIDE = 8


def made(norm=True, channels=1, size=SIDE, mean=0.5, std=0.25, **settings):
    sampling = Sampling(**settings)
    if sampling.version == "v1":
        mean = std = None
    inner = SplitNet(norm=norm, channels=sampling.channels(channels), size=size)
    return CiiV(inner, sampling, channels=channels, size=size, mean=mean, std=std).eval()


def images_of(count=5, channels=1, height=SIDE, width=SIDE):
    return Streams(1, range(count)).uniform((channels, height, width))


KINDS = [
    {},
    {"loops": 4, "samples": 1},
    {"centres": "random", "loops": 12},
    {"centres": "cells", "mask": "linear"},
    {"version": "v1", "loops": 11, "amplitude": 0.8},
    {"version": "v1", "centres": "grid", "mask": "root"},
]


@pytest.fixture(params=KINDS, ids=str)
def model(request):
    return made(**request.param)


class TestDraws:
    def test_it_is_what_it_says(self, model):
        for protocol in (StochasticClassifier, ViewedClassifier, DeclaresSurrogates, Looping):
            assert isinstance(model, protocol)
        assert not isinstance(model, FeatureSplit)

    def test_shapes_and_the_prediction(self, model):
        images, streams = images_of(), Streams(0, range(5))
        features, logits, exposure = model.views(images, streams.fold("draw", 0))
        loops = model.sampling.loops
        assert (features.shape, logits.shape, exposure.shape) == ((loops, 5, 16), (loops, 5, 4), (loops, 5))
        drawn = model.draw(images, streams, 3)
        assert drawn.shape == (3, 5, 4)
        torch.testing.assert_close(drawn[0], pooled(logits, exposure))
        if model.sampling.version == "v1":
            assert (exposure == 1).all()
            torch.testing.assert_close(drawn[0], logits.mean(dim=0))
        else:
            assert 0.5 < exposure.mean() <= 1

    def test_streams_decide_and_nothing_else(self, model):
        images, streams = images_of(), Streams(0, range(5))
        first = model.draw(images, streams, 2)
        torch.manual_seed(7)
        assert torch.equal(first, model.draw(images, streams, 2))
        assert torch.equal(first[:1], model.draw(images, streams, 1))
        assert torch.equal(model(images), first[0])
        assert (model.draw(images, Streams(1, range(5)), 2) != first).any()
        assert (first[0] != first[1]).any()
        order = torch.tensor([3, 0, 4])
        torch.testing.assert_close(model.draw(images[order], streams[order], 2), first[:, order])
        assert torch.equal(model.sampler(images, streams)[0][order], model.sampler(images[order], streams[order])[0])

    def test_parts_within_a_bound_are_the_whole_and_so_is_their_gradient(self, model):
        images, streams = images_of(), Streams(0, range(5))
        small = CiiV(model.inner, _with(model.sampling, memory=40_000), channels=1, size=SIDE).eval()
        small.normalise = model.normalise
        taken = []
        model.inner.conv.register_forward_hook(lambda module, args, output: taken.append(len(output)))
        found = []
        for one in (model, small):
            taken.clear()
            x = images.clone().requires_grad_()
            logits = SampledSurrogate(one).draw(x, streams, 1)[0]
            found.append(
                (logits.detach(), torch.autograd.grad(losses.margin(logits, torch.zeros(5).long()).sum(), x)[0])
            )
        small_rows = [count for count in taken if count > 2]
        assert 1 < max(small_rows) < 5 * model.sampling.loops
        assert len(small_rows) > 2
        torch.testing.assert_close(found[0], found[1])
        assert found[0][1].any()

    def test_loops_of_another_number_share_the_weights(self, model):
        one = model.with_loops(1)
        assert one.inner is model.inner
        images, streams = images_of(), Streams(0, range(5))
        _, logits, _ = one.views(images, streams)
        assert (len(logits), one.training) == (1, False)
        assert torch.equal(one.normalise(images), model.normalise(images))
        if model.sampling.centres == "grid":  # the first loop draws the first numbers
            assert one.draw(images, streams, 1).shape == (1, 5, 4)


def _with(settings, **changes):
    from dataclasses import replace

    return replace(settings, **changes)


class TestShapes:
    @pytest.mark.parametrize("version", ["v1", "v2"])
    @pytest.mark.parametrize(("channels", "height", "width"), [(1, 8, 8), (3, 12, 20), (4, 33, 6)])
    def test_any_image(self, version, channels, height, width):
        settings = Sampling(version=version, loops=3)
        inner = models.build("vgg11", classes=4, channels=settings.channels(channels), size=(height, width), width=2)
        model = CiiV(inner, settings, channels=channels, size=(height, width)).eval()
        images = images_of(2, channels, height, width)
        assert model.draw(images, Streams(0, range(2)), 1).shape == (1, 2, 4)
        x = images.requires_grad_()
        assert torch.autograd.grad(ExpectedSurrogate(model)(x).sum(), x)[0].any()

    def test_grey_images_are_three_cells_a_pixel(self):
        views, _ = made(loops=1).sampler(made().sampled_input(images_of()), Streams(0, range(5)))
        assert views.shape == (5, 1, 3, SIDE, SIDE)
        assert (views[:, :, 0] != views[:, :, 1]).any()

    def test_double_precision_stays(self):
        model = made().double()
        images = images_of().double()
        assert model.draw(images, Streams(0, range(5)), 1).dtype == torch.float64

    def test_a_seven_pixel_stem(self):
        net = models.build("resnet18", classes=4, channels=6, size=32, width=4, stem=7)
        assert (net.conv1.kernel_size, net.conv1.stride) == ((7, 7), (2, 2))
        assert net(torch.rand(2, 6, 32, 32)).shape == (2, 4)
        with pytest.raises(InputError, match=r"^stem: got 5; expected 3 or 7"):
            models.build("resnet18", classes=4, channels=6, size=32, stem=5)


class TestTraining:
    def test_by_centre_the_batch_is_a_sequence(self):
        """Views, weights' gradients and BatchNorm statistics as of nine passes one after the other."""
        model, plain = made(per_centre_norm=True).train(), made().train()
        other = SplitNet(norm=True, channels=3).train()
        other.load_state_dict(model.inner.state_dict())
        images, streams = images_of(), Streams(0, range(5))
        features, logits, _ = model.views(images, streams)
        views, _ = model.sampler(model.sampled_input(images), streams)
        expected = torch.stack([other.features(views[:, loop]) for loop in range(9)])
        assert torch.equal(features, expected)
        logits.square().sum().backward()
        other.head(expected).square().sum().backward()
        for mine, its in zip(model.inner.parameters(), other.parameters(), strict=True):
            torch.testing.assert_close(mine.grad, its.grad)
        for name, value in model.inner.state_dict().items():
            assert torch.equal(value, other.state_dict()[name])
        assert int(model.inner.norm.num_batches_tracked) == 9
        together = plain.views(images, streams)[0]
        assert int(plain.inner.norm.num_batches_tracked) == 1
        assert (together - features).abs().max() > 1e-3  # BatchNorm sees other batches
        torch.testing.assert_close(model.eval().views(images, streams)[1].shape, plain.views(images, streams)[1].shape)

    def test_without_batch_statistics_it_makes_no_difference(self):
        images, streams = images_of(), Streams(0, range(5))
        one, nine = (made(norm=False, per_centre_norm=each).train() for each in (False, True))
        nine.inner.load_state_dict(one.inner.state_dict())
        torch.testing.assert_close(one.views(images, streams), nine.views(images, streams))

    def test_another_activation_changes_no_view(self):
        soft = models.build("vgg11", classes=4, channels=3, size=SIDE, width=2)
        before = CiiV(soft, channels=1, size=SIDE).sampler(images_of(5, 3), Streams(0, range(5)))
        for name, module in list(soft.layers.named_children()):
            if isinstance(module, nn.ReLU):
                soft.layers.add_module(name, nn.Softplus())
        model = CiiV(soft, channels=1, size=SIDE)
        after = model.sampler(images_of(5, 3), Streams(0, range(5)))
        assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
        assert model.views(images_of(), Streams(0, range(5)))[1].shape == (9, 5, 4)

    def test_masks_shared_over_the_batch(self):
        sampler = Sampler(Sampling(mask_scope="batch", samples=1, centres="random"))
        ones = torch.full((6, 3, SIDE, SIDE), 5.0)  # every cell fires, so a view is its mask
        views, exposure = sampler(ones, Streams(0, range(6)))
        assert (views.gt(0.5) == views.gt(0.5)[:1]).all()
        assert (exposure == exposure[:1]).all()
        own, _ = Sampler(Sampling(samples=1, centres="random"))(ones, Streams(0, range(6)))
        assert (own.gt(0.5) != own.gt(0.5)[:1]).any()
        assert torch.equal(own[0], views[0])
        noise = [Sampler(Sampling(mask_scope=s))(ones - 5, Streams(0, range(6)))[0] for s in ("batch", "example")]
        assert all((found[0] != found[1]).any() for found in noise)  # noise is each example's own


class TestSurrogates:
    def test_a_is_the_model_with_the_expected_slope(self, model):
        images, streams = images_of(), Streams(0, range(5))
        surrogate = SampledSurrogate(model)
        x = images.clone().requires_grad_()
        logits = surrogate.draw(x, streams, 2)
        torch.testing.assert_close(logits, model.draw(images, streams, 2))
        (gradient,) = torch.autograd.grad(logits.sum(), x)
        y = images.clone().requires_grad_()
        raw = torch.autograd.grad(model.draw(y, streams, 2).sum(), y)[0]
        assert (gradient != raw).any()
        inside = (model.normalise(images).abs() < model.sampling.amplitude) | (model.sampling.version == "v1")
        assert not gradient[~inside].any()
        assert gradient[inside].ne(0).float().mean() > 0.9

    @pytest.mark.parametrize("kind", [k for k in KINDS if k.get("centres") != "random"], ids=str)
    def test_b_is_the_mean_of_many_views(self, kind):
        """Every pixel of every view within 5.7 standard errors and Bernstein's 11/N: error rate below 1e-3 in all."""
        settings, draws = Sampling(**kind), 3000
        sampler = Sampler(settings, (SIDE, SIDE))
        x = images_of(1, 3) if settings.version == "v1" else 2 * images_of(1, 3) - 1
        streams = Streams(3, range(draws))
        views, exposure = sampler(x.expand(draws, -1, -1, -1), streams)
        expected, z = sampler.expected(x)
        drawn_centres = settings.centres != "grid"
        if drawn_centres:  # the nine stand for all
            views, exposure = views.mean(dim=1, keepdim=True), exposure.mean(dim=1, keepdim=True)
            expected, z = expected.mean(dim=1, keepdim=True), z.mean(dim=1, keepdim=True)
        for found, wanted in ((views, expected), (exposure, z)):
            error = found.std(dim=0) / math.sqrt(draws)
            distance = (found.mean(dim=0) - wanted[0]).abs()
            assert (distance <= 5.7 * error + 11 / draws + 2e-4).all()  # the guard's share
        assert float((views - expected).abs().mean()) > 0.01

    def test_b_is_an_ordinary_classifier_in_two_parts(self, model):
        surrogate, images = ExpectedSurrogate(model), images_of()
        assert isinstance(surrogate, FeatureSplit)
        assert not isinstance(surrogate, StochasticClassifier)
        torch.testing.assert_close(surrogate.head(surrogate.features(images)), surrogate(images))
        assert torch.equal(surrogate(images), surrogate(images))

    def test_b_has_exact_gradients(self):
        surrogate = ExpectedSurrogate(made(norm=False).double())
        x = (0.3 + 0.2 * images_of(2).double()).requires_grad_()
        assert torch.autograd.gradcheck(surrogate, (x,))

    @pytest.mark.parametrize("kind", [SampledSurrogate, ExpectedSurrogate])
    def test_wide_slopes_reach_saturated_cells(self, kind):
        """White pixels have no exact slope, but a step from them has an effect."""
        model, streams = made(mean=0.5, std=0.5, amplitude=0.8), Streams(0, range(5))
        images, found = torch.ones(5, 1, SIDE, SIDE), []
        for wide in (False, True):
            x = images.clone().requires_grad_()
            surrogate = kind(model, wide=wide)
            logits = surrogate(x) if kind is ExpectedSurrogate else surrogate.draw(x, streams, 1)[0]
            loss = losses.cross_entropy(logits, torch.zeros(5, dtype=torch.int64)).sum()
            found.append((logits.detach(), torch.autograd.grad(loss, x)[0]))
        (exact, none), (same, gradient) = found
        torch.testing.assert_close(exact, same)
        assert not none.any()
        assert gradient.ne(0).float().mean() > 0.9
        moved = ExpectedSurrogate(model)((images + 0.4 * gradient.sign()).clamp(0, 1))
        at_first = ExpectedSurrogate(model)(images)
        zeros = torch.zeros(5, dtype=torch.int64)
        assert losses.cross_entropy(moved, zeros).sum() > losses.cross_entropy(at_first, zeros).sum() + 0.05

    def test_the_consistency_term(self, model):
        images, labels = images_of(), torch.arange(5) % 4
        surrogate = ExpectedSurrogate(model)
        plain = ViewedLoss()(surrogate, images, labels, {})
        torch.testing.assert_close(plain, losses.cross_entropy(surrogate(images), labels))
        features, _, exposure = model.expected_views(images)
        against = "others" if model.sampling.version == "v2" else "all"
        extra = consistency(features, exposure, against=against).mean(dim=0)
        loss = ViewedLoss("margin", 0.5)
        expected = losses.margin(surrogate(images), labels) + 0.5 * extra
        torch.testing.assert_close(loss(surrogate, images, labels, {}), expected)
        assert loss.__name__ == "margin+0.5*consistency"
        assert ViewedLoss(weight=0.1)(SampledSurrogate(model), images, labels, {}).shape == (5,)

    def test_what_is_declared(self, model):
        made = model.attack_surrogates()
        kinds = ["b-ce", "b-margin", "b-wide-ce", "b-wide-margin", "b-consistency"]
        kinds += ["a-ce", "a-margin", "a-wide-ce", "a-wide-margin"]
        assert [attack.name for attack in made] == [f"ciiv-{kind}" for kind in kinds]
        assert [attack.surrogate.wide for attack in made] == ["wide" in kind for kind in kinds]
        stochastic = [isinstance(attack.surrogate, StochasticClassifier) for attack in made]
        assert stochastic == [False] * 5 + [True] * 4
        assert "consistency" not in str([attack.name for attack in model.with_loops(1).attack_surrogates()])


class TestBadInput:
    @pytest.mark.parametrize(
        ("settings", "line"),
        [
            ({"loops": 0}, "loops: got 0; expected a whole number of at least 1"),
            ({"loops": 10}, "loops: got 10; expected at most 9 with centres=grid"),
            ({"samples": 0}, "samples: got 0"),
            ({"amplitude": 0}, "amplitude: got 0; expected a number above 0 and at most 2"),
            ({"amplitude": 2.1}, "amplitude: got 2.1; expected a number above 0 and at most 2"),
            ({"amplitude": math.nan}, "amplitude: got nan"),
            ({"version": "v3"}, "version: got 'v3'; expected one of v1, v2"),
            ({"centres": "middle"}, "centres: got 'middle'; expected one of grid, cells, random"),
            ({"mask": "box"}, "mask: got 'box'; expected one of power, linear, root"),
            ({"points": (3, 3, 4)}, r"points: got \(3, 3, 4\); expected three different"),
            ({"memory": 0}, "memory: got 0"),
        ],
    )
    def test_settings(self, settings, line):
        with pytest.raises(InputError, match=f"^{line}") as caught:
            Sampling(**settings)
        assert "\n" not in str(caught.value)
        assert Sampling(loops=12, centres="random").loops == 12

    def test_images_smaller_than_the_grid(self):
        with pytest.raises(InputError, match=r"^height: got 3; expected at least 4 pixels"):
            made(size=3)
        with pytest.raises(InputError, match=r"^width: got 8; expected more than 44 pixels"):
            Sampler(Sampling(points=(1, 2, 44)), (64, 8))
        with pytest.raises(InputError, match=r"^height: got 2"):
            made().draw(images_of(2, height=2), Streams(0, range(2)), 1)

    def test_the_rest(self):
        with pytest.raises(InputError, match=r"^inner: got 'Sequential'; expected a network with features and head"):
            CiiV(nn.Sequential(), channels=1, size=8)
        with pytest.raises(InputError, match=r"^normalisation: got 0.5; expected none with version v1"):
            CiiV(SplitNet(channels=2), Sampling(version="v1"), channels=1, size=8, mean=0.5, std=0.5)
        with pytest.raises(InputError, match=r"^streams: got 4; expected one stream for each of the 5 images"):
            made().draw(images_of(), Streams(0, range(4)), 1)
        with pytest.raises(InputError, match=r"^loops: got 10"):
            made().with_loops(10)
