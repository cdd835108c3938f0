"""Projections and steepest steps against properties and independent oracles."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from scipy import optimize

from deconfound.functional.norms import distance, project, steepest

BOX = (0.0, 1.0)
NORMS = ("linf", "l2", "l1")
DUAL = {"linf": 1, "l2": 2, "l1": torch.inf}
SLACK = {torch.float32: 1e-6, torch.float64: 1e-12}

cases = st.fixed_dictionaries(
    {
        "norm": st.sampled_from(NORMS),
        "dtype": st.sampled_from([torch.float32, torch.float64]),
        "rows": st.integers(1, 4),
        "size": st.sampled_from([1, 2, 3, 7, 48, 200]),
        "eps": st.sampled_from([0.0, 1e-6, 8 / 255, 0.1, 0.5, 2.0, 12.0, 1e4]),
        "spread": st.sampled_from([0.0, 1e-7, 0.01, 0.3, 3.0, 1e6]),
        "extreme": st.sampled_from([0.0, 0.3, 1.0]),
        "sparse": st.booleans(),
        "seed": st.integers(0, 2**31),
    }
)


def drawn(norm, dtype, rows, size, eps, spread, extreme, sparse, seed):
    """Images, some of their pixels exactly 0 or 1, and candidates around them."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(rows, size, generator=generator, dtype=dtype)
    images = torch.where(torch.rand(rows, size, generator=generator) < extreme, images.round(), images)
    noise = torch.randn(rows, size, generator=generator, dtype=dtype)
    if sparse:
        noise[:, 1:] *= 1e-3
    return images, images + spread * noise, norm, eps


@given(cases)
@settings(max_examples=300, deadline=None, derandomize=True)
def test_results_are_inside_ball_and_box_and_projecting_again_changes_nothing(case):
    images, candidates, norm, eps = drawn(**case)
    result = project(candidates, images, eps, norm, BOX)
    # A kink beside a huge candidate is known to a unit of its rounding only, also in double precision.
    slack = max(SLACK[images.dtype], 1e-15 * case["spread"] * case["size"])
    assert result.dtype == images.dtype
    assert bool(((result >= 0) & (result <= 1)).all())
    assert bool((distance(result - images, norm) <= eps + slack).all())
    again = project(result, images, eps, norm, BOX)
    torch.testing.assert_close(again, result, rtol=0, atol=slack)


@given(cases)
@settings(max_examples=150, deadline=None, derandomize=True)
def test_allowed_candidates_are_returned_bit_for_bit(case):
    images, candidates, norm, eps = drawn(**case)
    candidates = candidates.clamp(*BOX)
    offset = candidates - images
    inside = (distance(offset, norm) <= eps * (1 - 1e-5)).nonzero().squeeze(1)
    assume(len(inside))
    assert torch.equal(project(candidates, images, eps, norm, BOX)[inside], candidates[inside])
    assert torch.equal(project(images, images, eps, norm, BOX), images)


@pytest.mark.parametrize("norm", NORMS)
def test_allowed_candidates_finer_than_the_images_rounding_come_back_bit_for_bit(norm):
    generator = torch.Generator().manual_seed(4)
    images = torch.rand(50, 40, generator=generator)
    candidates = torch.rand(50, 40, generator=generator) ** 4
    assert not torch.equal(images + (candidates - images), candidates)
    assert torch.equal(project(candidates, images, 100.0, norm, BOX), candidates)


def euclidean_oracle(candidate, image, eps, norm):
    """The nearest point by bisection on the multiplier of the ball's constraint, one row in float64.

    L2: minimising |z - c|^2 + m (|z - x|^2 - eps^2) gives z = clip((c + m x) / (1 + m)). L1: z = clip(x + soft(w, m)).
    """
    c, x = np.asarray(candidate, dtype=np.float64), np.asarray(image, dtype=np.float64)
    w = c - x

    def point(m):
        free = w / (1 + m) if norm == "l2" else np.sign(w) * np.maximum(np.abs(w) - m, 0)
        return np.clip(x + free, 0, 1)

    def excess(m):
        return np.linalg.norm(point(m) - x, 2 if norm == "l2" else 1) - eps

    if norm == "linf":
        return np.clip(np.clip(c, x - eps, x + eps), 0, 1)
    if excess(0.0) <= 0:
        return point(0.0)
    if eps == 0:
        return x
    low, high = 0.0, 1.0 + np.abs(w).max() * (1e8 if norm == "l2" else 1)
    for _ in range(400):
        middle = (low + high) / 2
        low, high = (middle, high) if excess(middle) > 0 else (low, middle)
    return point(high)


@given(cases)
@example(
    {
        "norm": "l1",
        "dtype": torch.float32,
        "rows": 1,
        "size": 3,
        "eps": 0.5,
        "spread": 1e6,
        "extreme": 0.0,
        "sparse": False,
        "seed": 0,
    }
)
@settings(max_examples=250, deadline=None, derandomize=True)
def test_results_are_the_nearest_allowed_points(case):
    images, candidates, norm, eps = drawn(**case)
    result = project(candidates, images, eps, norm, BOX).double().numpy()
    # A float32 candidate at 1e6 is itself known to 0.03 only, but exactly so: the oracle reads the same numbers.
    # The documented shortening of the radius: one coordinate may bear it alone.
    radius = eps if norm == "linf" else eps * (1 - 16 * torch.finfo(images.dtype).eps)
    tolerance = (2e-6 if images.dtype == torch.float32 else 1e-8) * (1 + min(eps, 48))
    for row, image, candidate in zip(result, images.numpy(), candidates.numpy(), strict=True):
        best = euclidean_oracle(candidate, image, radius, norm)
        np.testing.assert_allclose(row, best, rtol=0, atol=tolerance)


@pytest.mark.parametrize("norm", NORMS)
def test_the_oracle_agrees_with_a_general_optimiser(norm):
    """Nearest point of five problems by sequential quadratic programming, which knows nothing of multipliers."""
    generator = np.random.default_rng(3)
    for _ in range(5):
        x = generator.uniform(size=4).round(1)
        c = x + generator.normal(size=4)

        def length(v, x=x):  # v holds the positive and negative parts of z - x, so that every norm is smooth
            return v[:4] - v[4:]

        constraint = {
            "linf": lambda v: 0.6 - (v[:4] + v[4:]),
            "l2": lambda v: np.array([0.6**2 - (length(v) ** 2).sum()]),
            "l1": lambda v: np.array([0.6 - v.sum()]),
        }[norm]
        found = optimize.minimize(
            lambda v, x=x, c=c: ((x + length(v) - c) ** 2).sum() + 1e-9 * (v**2).sum(),
            np.full(8, 0.01),
            method="SLSQP",
            bounds=[(0, h) for h in (*(1 - x), *x)],
            constraints={"type": "ineq", "fun": constraint},
            options={"maxiter": 500, "ftol": 1e-14},
        )
        nearest = x + length(found.x)
        np.testing.assert_allclose(euclidean_oracle(c, x, 0.6, norm), nearest, atol=2e-5)
        row = project(torch.tensor(c)[None], torch.tensor(x)[None], 0.6, norm, BOX)[0].numpy()
        np.testing.assert_allclose(row, nearest, atol=2e-5)


@pytest.mark.parametrize("norm", NORMS)
def test_no_other_allowed_point_is_nearer(norm):
    """The variational inequality <c - z, y - z> <= 0 for all allowed y, over random y."""
    generator = torch.Generator().manual_seed(5)
    x = torch.rand(40, 12, generator=generator, dtype=torch.float64)
    c = x + torch.randn(40, 12, generator=generator, dtype=torch.float64)
    z = project(c, x, 0.4, norm, BOX)
    for _ in range(50):
        y = project(x + torch.randn(40, 12, generator=generator, dtype=torch.float64), x, 0.4, norm, BOX)
        assert float(((c - z) * (y - z)).sum(dim=1).max()) < 1e-10


PIXELS = 150_528
PATTERNS = {
    "black": lambda g: torch.zeros(1, PIXELS),
    "white": lambda g: torch.ones(1, PIXELS),
    "grey": lambda g: torch.full((1, PIXELS), 0.7),
    "random": lambda g: torch.rand(1, PIXELS, generator=g),
}


def inwards(x):
    return torch.where(x > 0.5, -1.0, 1.0)


PUSHES = {
    "equal": lambda x, g: x + 0.01 * inwards(x),
    "huge": lambda x, g: x + 1e6 * inwards(x),
    "random": lambda x, g: x + 0.3 * torch.randn(x.shape, generator=g),
    "one in a hundred": lambda x, g: x + 0.5 * inwards(x) * (torch.arange(PIXELS) % 100 == 0),
}


@pytest.mark.parametrize("push", PUSHES)
@pytest.mark.parametrize("pattern", PATTERNS)
def test_large_images_stay_inside_when_the_norm_is_summed_again(pattern, push):
    """Equal pixels all round the same way, so the errors of 150 528 of them would add up."""
    generator = torch.Generator().manual_seed(0)
    images = PATTERNS[pattern](generator)
    candidates = PUSHES[push](images, generator)
    for norm, eps in (("linf", 8 / 255), ("l2", 0.5), ("l2", 2.0), ("l1", 12.0), ("l1", 100.0)):
        difference = project(candidates, images, eps, norm, BOX) - images
        lengths = {
            "linf": difference.abs().amax(),
            "l2": difference.square().sum().sqrt(),
            "l1": difference.abs().sum(),
        }
        slack = 1e-6 if norm == "linf" else 0.0
        assert float(lengths[norm]) <= eps + slack
        assert float(distance(difference, norm)) <= eps + slack
        wanted = distance(candidates.clamp(*BOX).double() - images, norm)
        if float(wanted) > eps:  # the ball binds: the result uses it up, to rounding (relative 4e-4 for 1e-4 a pixel)
            assert float(distance(difference.double(), norm)) >= eps * (1 - 5e-4)


def test_distances_are_exact_for_many_equal_pixels():
    rows = torch.full((2, PIXELS), 0.25)
    torch.testing.assert_close(distance(rows, "l2"), torch.full((2,), 0.25 * PIXELS**0.5), rtol=1e-7, atol=0)
    torch.testing.assert_close(distance(rows, "l1"), torch.full((2,), 0.25 * PIXELS), rtol=1e-7, atol=0)
    assert distance(rows, "linf").tolist() == [0.25, 0.25]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [1.0, 1e-30, 1e30])
@pytest.mark.parametrize("norm", NORMS)
def test_steepest_reaches_the_dual_norm(norm, scale, dtype):
    generator = torch.Generator().manual_seed(1)
    gradient = scale * torch.randn(9, 60, generator=generator, dtype=dtype)  # 60 pixels: L1 moves a single one
    unit = steepest(gradient, norm)
    torch.testing.assert_close(distance(unit, norm), torch.ones(9, dtype=dtype), rtol=1e-6, atol=0)
    gain = (gradient.double() * unit.double()).sum(dim=1)
    best = torch.linalg.vector_norm(gradient.double(), DUAL[norm], dim=1)
    torch.testing.assert_close(gain, best, rtol=1e-6, atol=0)


def test_steepest_in_l1_spreads_over_the_largest():
    gradient = torch.linspace(-1, 1.1, 300)[None]
    unit = steepest(gradient, "l1", 3)
    assert unit.nonzero()[:, 1].tolist() == [297, 298, 299]
    assert unit[0, 297:].tolist() == pytest.approx([1 / 3] * 3)
    assert steepest(-gradient, "l1", 3).sum() == pytest.approx(-1)
    assert steepest(gradient, "l1", 1000).abs().sum() == pytest.approx(1)  # no more than there are


@pytest.mark.parametrize("norm", NORMS)
def test_a_zero_gradient_gives_a_zero_step(norm):
    assert not steepest(torch.zeros(2, 5), norm).any()


@pytest.mark.parametrize("norm", NORMS)
def test_the_step_is_linear_in_its_size_until_the_ball_or_box_binds(norm):
    images = torch.full((3, 20), 0.5, dtype=torch.float64)
    unit = steepest(torch.randn(3, 20, generator=torch.Generator().manual_seed(2), dtype=torch.float64), norm)
    for size in (0.01, 0.1, 0.3):
        moved = project(images + size * unit, images, 0.31, norm, BOX)
        torch.testing.assert_close(moved - images, size * unit, rtol=0, atol=1e-12)
