"""Threat models: parsing, membership, random starts, blocked steps."""

from __future__ import annotations

import pytest
import torch
from scipy import stats

from deconfound.core.streams import Streams
from deconfound.core.threat import ThreatModel, parse_norm, parse_radius, show_radius
from deconfound.errors import InputError
from toys import ball


@pytest.mark.parametrize(
    ("value", "radius"),
    [
        ("8/255", 8 / 255),
        (" 8 / 255 ", 8 / 255),
        ("0.3", 0.3),
        (".5", 0.5),
        ("2.", 2.0),
        ("1e-3", 1e-3),
        ("2E+0/4", 0.5),
        ("0", 0.0),
        ("0/255", 0.0),
        (0, 0.0),
        (12, 12.0),
        (0.1, 0.1),
    ],
)
def test_radii_are_numbers_or_fractions(value, radius):
    assert parse_radius(value) == radius
    assert ThreatModel("l2", value).eps == radius


BAD_RADII = [
    "", " ", "8/", "/255", "8/0", "8/0.0", "8//255", "1/2/3", "-1", "-8/255", "+1", "nan", "inf", "1e999", "8 255",
    "8/255x", "0x1", "1_0", "eight", -0.1, float("nan"), float("inf"), -float("inf"), True, None, [0.1], 10**400,
]  # fmt: skip


@pytest.mark.parametrize("value", BAD_RADII, ids=lambda value: repr(value)[:12])
def test_bad_radii_are_refused_in_one_line(value):
    with pytest.raises(InputError) as caught:
        parse_radius(value)
    line = str(caught.value)
    assert line.startswith(f"eps: got {' '.join(repr(value).split())[:190]}")
    assert line.endswith("expected a finite number of at least 0 or a fraction such as 8/255")
    assert "\n" not in line


@pytest.mark.parametrize(
    ("value", "norm"),
    [("linf", "linf"), ("LINF", "linf"), ("inf", "linf"), ("L∞", "linf"), ("L2", "l2"), ("l_1", "l1"), (2, "l2")],
)
def test_norms_have_their_usual_spellings(value, norm):
    assert parse_norm(value) == norm


@pytest.mark.parametrize("value", ["", "l0", "l3", "linf ", "lp", None, 3])
def test_unknown_norms_are_refused(value):
    with pytest.raises(InputError, match=r"^norm: got .*; expected one of linf, l2, l1$"):
        ThreatModel(value)


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize("box", [(1, 0), (0, 0), (0, INF), (-INF, 1), (NAN, 1), (0,), (0, 1, 2), "01x", None, ("a", 1)])
def test_bad_boxes_are_refused(box):
    with pytest.raises(InputError, match=r"^box: got .*; expected \(low, high\) with low < high$"):
        ThreatModel("linf", 0.1, box)


def test_a_threat_model_is_a_frozen_value():
    threat = ThreatModel("L2", "1/2", (0, 1))
    assert threat == ThreatModel("l2", 0.5)
    assert len({threat, ThreatModel("l2", 0.5)}) == 1
    assert threat.with_eps("1/4") == ThreatModel("l2", 0.25)
    with pytest.raises(AttributeError):
        threat.eps = 3
    assert str(ThreatModel()) == "linf 8/255"
    assert [show_radius(eps) for eps in (8 / 255, 0.5, 12, 0.0, 0.3)] == ["8/255", "0.5", "12", "0", "0.3"]


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_contains_knows_ball_and_box_and_refuses_nan(norm):
    images = torch.full((6, 1, 2, 2), 0.95)
    moved = images.clone()
    moved[1, 0, 0, 0] -= 0.1  # on the border
    moved[2, 0, 0, 0] -= 0.1001
    moved[3, 0, 0, 0] = 1.0001  # within the ball, outside the box
    moved[4, 0, 0, 0] = NAN
    moved[5, 0, 0, 0] = -INF
    assert ThreatModel(norm, 0.1).contains(moved, images).tolist() == [True, True, False, False, False, False]
    images[0, 0, 0, 0] = NAN
    assert not ThreatModel(norm, 0.1).contains(images, images)[0]


def test_contains_measures_in_the_norm_of_the_model():
    images, moved = torch.full((1, 1, 2, 2), 0.5), torch.full((1, 1, 2, 2), 0.6)
    distances = {"linf": 0.1, "l2": 0.2, "l1": 0.4}
    for norm, length in distances.items():
        assert ThreatModel(norm, 1).distance(moved, images).item() == pytest.approx(length, rel=1e-6)
        assert ThreatModel(norm, length + 1e-4).contains(moved, images).all()
        assert not ThreatModel(norm, length - 1e-4).contains(moved, images).any()


# --- random starts: fixed seeds, each test passed by chance with error rate 10^-6 ---

COUNT, SIZE = 4000, 12
NORMS = ("linf", "l2", "l1")


def starts(norm, eps=0.2, dtype=torch.float64):
    images = torch.full((COUNT, 3, 2, 2), 0.5, dtype=dtype)
    return (ThreatModel(norm, eps).random_start(images, Streams(8, range(COUNT))) - images).flatten(1) / eps


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_random_starts_are_inside_and_fill_the_ball(norm, dtype):
    """The distance to the centre of a uniform point of a ball in d dimensions is distributed as r^d."""
    offsets = starts(norm, dtype=dtype).double()
    order = {"linf": torch.inf, "l2": 2, "l1": 1}[norm]
    radius = torch.linalg.vector_norm(offsets, order, dim=1)
    assert float(radius.max()) <= 1 + 1e-5
    assert stats.kstest(radius.numpy() ** SIZE, "uniform").pvalue > 1e-6


def test_linf_starts_have_uniform_independent_coordinates():
    offsets = starts("linf")
    assert stats.kstest(offsets.flatten().numpy(), "uniform", args=(-1, 2)).pvalue > 1e-6
    correlation = torch.corrcoef(offsets.T) - torch.eye(SIZE, dtype=torch.float64)
    assert float(correlation.abs().max()) < 6 / COUNT**0.5


def test_l2_starts_have_the_marginal_of_a_uniform_ball():
    """One coordinate of a uniform point of the unit ball: (1 + x) / 2 is Beta((d + 1) / 2, (d + 1) / 2)."""
    offsets = starts("l2")
    for k in range(SIZE):
        sample = ((1 + offsets[:, k]) / 2).numpy()
        assert stats.kstest(sample, stats.beta((SIZE + 1) / 2, (SIZE + 1) / 2).cdf).pvalue > 1e-6


def test_l1_starts_have_the_marginal_of_a_uniform_cross_polytope():
    """One coordinate of a uniform point of the unit L1 ball has |x| ~ Beta(1, d) and an even sign."""
    offsets = starts("l1")
    for k in range(SIZE):
        assert stats.kstest(offsets[:, k].abs().numpy(), stats.beta(1, SIZE).cdf).pvalue > 1e-6
        positive = int((offsets[:, k] > 0).sum())
        assert stats.binomtest(positive, COUNT).pvalue > 1e-6


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("eps", [0.0, 8 / 255, 0.3, 50.0])
def test_random_starts_stay_inside_the_threat_model_at_the_edges_of_the_box(norm, eps):
    images = Streams(2, range(30)).uniform((3, 5, 5)).round()
    images[::2] = images[::2] * 0.5 + 0.2
    threat = ball(norm, eps)
    start = threat.random_start(images, Streams(0, range(30)))
    assert threat.contains(start, images).all()
    assert torch.equal(start, images) == (eps == 0)
    alone = threat.random_start(images[7:8], Streams(0, [7]))
    assert torch.equal(alone, start[7:8])


@pytest.mark.parametrize("norm", NORMS)
def test_random_starts_differ_between_streams(norm):
    images, threat = torch.full((5, 1, 4, 4), 0.5), ThreatModel(norm, 0.1)
    first, second = (threat.random_start(images, Streams(0, range(5)).fold("restart", k)) for k in (0, 1))
    assert bool(((first - second).flatten(1).abs().amax(dim=1) > 1e-4).all())


# --- steps ---


def test_an_l1_step_skips_the_pixels_that_the_box_blocks():
    gradient = torch.tensor([[[[9.0, -8.0, 7.0, -1.0]]]])
    points = torch.tensor([[[[1.0, 0.0, 0.5, 0.5]]]])
    threat = ThreatModel("l1", 0.5)
    assert threat.steepest(gradient).flatten().tolist() == [1, 0, 0, 0]
    assert threat.steepest(gradient, points).flatten().tolist() == [0, 0, 1, 0]
    assert threat.steepest(-gradient, points).flatten().tolist() == [-1, 0, 0, 0]  # away from the border it may move
    stuck = threat.steepest(torch.tensor([[[[1.0, -1.0, 0.0, 0.0]]]]), points)
    assert not stuck.any()
    spread = ThreatModel("l1", 0.8).steepest(gradient)  # the ball lets two pixels cross half of the box
    assert spread.flatten().tolist() == [0.5, -0.5, 0, 0]
    assert ThreatModel("linf", 1.0).steepest(gradient, points).flatten().tolist() == [1, -1, 1, -1]


@pytest.mark.parametrize("norm", NORMS)
def test_projection_keeps_shape_type_and_allowed_images(norm):
    images = Streams(0, range(4)).uniform((3, 4, 5), torch.float64)
    threat = ThreatModel(norm, 0.2)
    far = threat.project(images + 3, images)
    assert far.shape == images.shape
    assert far.dtype == images.dtype
    assert threat.contains(far, images, tolerance=1e-12).all()
    assert torch.equal(threat.project(images, images), images)


def test_another_box_is_obeyed():
    threat = ThreatModel("linf", 0.5, (-1, 2))
    images = torch.tensor([[[[-0.8, 1.9]]]])
    torch.testing.assert_close(threat.project(images - 3, images), torch.tensor([[[[-1.0, 1.4]]]]))
    assert not threat.contains(images + 0.2, images).any()
