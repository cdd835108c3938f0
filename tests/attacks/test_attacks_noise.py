"""Random noise: its distributions, its tries."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from deconfound.attacks.noise import Noise, scale
from deconfound.attacks.points import Points
from deconfound.core.streams import Streams
from deconfound.core.threat import ThreatModel
from deconfound.errors import InputError
from toys import ball

EPS = {"linf": 0.1, "l2": 0.5, "l1": 2.0}
norms = pytest.mark.parametrize("norm", list(EPS))
kinds = pytest.mark.parametrize("kind", ["uniform", "gaussian"])


def grey(count=4000, side=4):
    """Images so far from 0 and 1 that the box does not matter."""
    images = torch.full((count, 1, side, side), 0.5, dtype=torch.float64)
    return Points.of(images, torch.zeros(count, dtype=torch.int64), Streams(0, range(count)), None)


def distance_to(values, distribution):
    """Kolmogorov's distance between the values and a distribution function, times the root of their number."""
    ordered = values.sort().values
    steps = torch.arange(1, len(ordered) + 1, dtype=torch.float64) / len(ordered)
    return float((steps - distribution(ordered)).abs().max()) * math.sqrt(len(ordered))


def test_uniform_noise_is_uniform_in_the_ball():
    """The norm to the power of the dimension is uniform (L-infinity: each element). 1.95 is exceeded once in 1000."""
    points = grey()
    for norm in ("l2", "l1"):
        threat = ThreatModel(norm, 0.3)
        radius = threat.distance(Noise(threat).candidates(points, 0), points.images) / 0.3
        assert distance_to(radius**16, lambda u: u.clamp(0, 1)) < 1.95
    offset = (Noise(ThreatModel("linf", 0.3)).candidates(points, 0) - 0.5).flatten()
    assert distance_to(offset / 0.6 + 0.5, lambda u: u.clamp(0, 1)) < 1.95
    assert float(offset.abs().max()) <= 0.3


def test_gaussian_noise_is_normal_with_its_sigma():
    points = grey()
    normal = torch.distributions.Normal(0.0, 0.02)
    offset = Noise(ThreatModel("linf", 0.5), kind="gaussian", sigma=0.02).candidates(points, 0) - 0.5
    assert distance_to(offset.flatten(), normal.cdf) < 1.95
    clipped = Noise(ThreatModel("linf", 0.1), kind="gaussian").candidates(points, 0) - 0.5
    at_the_border = float((clipped.abs() > 0.1 - 1e-9).double().mean())
    assert at_the_border == pytest.approx(math.erfc(2 / math.sqrt(2)), abs=0.005)  # beyond two sigma


@pytest.mark.parametrize("norm", ["l2", "l1"])
def test_default_sigma_fills_the_ball(norm):
    threat, normal = ThreatModel(norm, 0.4), torch.randn(4000, 100, dtype=torch.float64)
    norm_of = torch.linalg.vector_norm(normal * scale(threat, 100), 2 if norm == "l2" else 1, dim=1)
    mean = norm_of.square().mean().sqrt() if norm == "l2" else norm_of.mean()
    assert float(mean) == pytest.approx(0.4, rel=0.01)
    points = grey(500, 10)
    far = threat.distance(Noise(threat, kind="gaussian").candidates(points, 0), points.images)
    assert 0.35 < float(far.median()) <= 0.4


@norms
@kinds
@given(seed=st.integers(0, 2**31), eps=st.floats(1e-3, 30), double=st.booleans())
@settings(max_examples=20, deadline=None)
def test_candidates_are_inside_the_threat_model(norm, kind, seed, eps, double):
    images = torch.rand(4, 2, 5, 5, generator=torch.Generator().manual_seed(seed)).round(decimals=1)
    images = images.double() if double else images
    threat, points = ball(norm, eps), Points.of(images, torch.zeros(4, dtype=torch.int64), None, None)
    first, second = (Noise(threat, kind=kind).candidates(points, attempt) for attempt in (0, 1))
    assert threat.contains(first, images).all()
    assert first.dtype == images.dtype
    assert not torch.equal(first, second)


def threshold(images):
    """Wrong where the first pixel is above 0.55."""
    return torch.stack([torch.full_like(images[:, 0, 0, 0], 0.55), images[:, 0, 0, 0]], dim=1)


def test_the_first_try_that_errs_is_kept():
    points, calls = grey(50), []

    def watched(images):
        calls.append(images.clone())
        return threshold(images)

    attack = Noise(ThreatModel("linf", 0.06), tries=6)
    found = attack(watched, points.images, points.labels, points.streams)
    tries = torch.stack([attack.candidates(points, attempt) for attempt in range(6)])
    wrong = tries[:, :, 0, 0, 0] > 0.55
    first = wrong.int().argmax(0)
    expected = torch.where(wrong.any(0).view(-1, 1, 1, 1), tries[first, torch.arange(50)], points.images)
    assert torch.equal(found, expected)
    assert 0 < int(wrong.any(0).sum()) < 50
    standing = [50] + [int((~wrong[:k].any(0)).sum()) for k in range(6)]
    assert [len(images) for images in calls] == standing


def test_a_judge_is_asked_about_what_fell_and_once_about_all():
    points, sizes = grey(50), []

    def judge(images, labels, streams):
        sizes.append(len(images))
        return images[:, 0, 0, 0] > 0.55

    found = Noise(ThreatModel("linf", 0.06), tries=5)(
        lambda x: 0 * threshold(x), points.images, points.labels, judge=judge
    )
    assert sizes == [50, 50]
    assert torch.equal((found != points.images).flatten(1).any(1), found[:, 0, 0, 0] > 0.55)
    assert (found != points.images).any()


@norms
@kinds
@given(order=st.permutations(range(11)), size=st.integers(1, 11))
@settings(max_examples=6, deadline=None)
def test_results_do_not_depend_on_the_batch(norm, kind, order, size):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(50, 4)).double()
    images = torch.rand(11, 2, 5, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    with torch.no_grad():
        labels = model(images).argmax(1)
    index, order = torch.arange(11) * 3, torch.tensor(order)
    attack = Noise(ThreatModel(norm, 4 * EPS[norm]), kind=kind, tries=8)
    whole = attack(model, images, labels, Streams(1, index))
    parts = [attack(model, images[p], labels[p], Streams(1, index[p])) for p in order.split(size)]
    again = torch.empty_like(whole)
    again[order] = torch.cat(parts)
    torch.testing.assert_close(again, whole, rtol=0, atol=1e-12)
    assert (whole != images).any()


@pytest.mark.parametrize(
    "wrong", [{"kind": "salt"}, {"tries": 0}, {"kind": "gaussian", "sigma": 0.0}, {"kind": "uniform", "sigma": 0.1}]
)
def test_settings_outside_their_range_are_refused(wrong):
    with pytest.raises(InputError, match=rf"^{[*wrong][-1]}: got"):
        Noise(ThreatModel(), **wrong)


def test_settings_describe_and_at_moves_the_threat_model_only():
    attack = Noise(ThreatModel("linf", 0.1), kind="gaussian", tries=3)
    assert attack.name == "noise-gaussian-3"
    assert attack.at(ThreatModel("l2", 1)).settings() == attack.settings() | {"norm": "l2", "eps": 1.0}
    assert attack.settings()["noise"] == "gaussian"
