"""Moves to a hyperplane against linear programmes, enumeration of active sets, and properties."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize

from deconfound.functional.hyperplanes import ROUNDS, level, move_to_hyperplane
from deconfound.functional.norms import distance

BOX = (0.0, 1.0)
NORMS = ("linf", "l2", "l1")

cases = st.fixed_dictionaries(
    {
        "size": st.sampled_from([1, 2, 3, 7, 60]),
        "spread": st.sampled_from([1e-3, 0.2, 1.0, 5.0]),
        "ties": st.booleans(),
        "edges": st.booleans(),
        "scale": st.sampled_from([1e-30, 1.0, 1e30]),
        "seed": st.integers(0, 2**31),
    }
)


def drawn(size, spread, ties, edges, scale, seed, rows=3, dtype=torch.float64):
    """Two sets of points over the same normals, some of which are equal or 0, and values of the affine function."""
    generator = torch.Generator().manual_seed(seed)
    points = torch.rand(2, rows, size, generator=generator, dtype=dtype)
    normals = torch.randn(rows, size, generator=generator, dtype=dtype)
    values = torch.randn(2, rows, generator=generator, dtype=dtype) * spread * size**0.5
    points = points.round() if edges else points
    normals = normals.round() if ties else normals
    return points, normals * scale, values * scale


def reach(points, normals, values):
    """How far the affine function can be brought towards 0 inside the box."""
    signed = -values.sign()[..., None] * normals
    return torch.maximum(signed * (1 - points), -signed * points).sum(-1)


@given(cases, st.sampled_from(NORMS))
@settings(max_examples=200, deadline=None, derandomize=True)
def test_moves_stay_in_the_box_and_end_on_the_hyperplane_or_nearest_to_it(case, norm):
    points, normals, values = drawn(**case)
    moves = move_to_hyperplane(points, normals, values, norm, BOX)
    ends = points + moves
    assert bool(((ends >= -1e-15) & (ends <= 1 + 1e-15)).all())
    assert bool((moves[(normals == 0).expand_as(moves)] == 0).all())
    left = (values + (moves * normals).sum(-1)).abs()
    short = (values.abs() - reach(points, normals, values)).clamp_min(0)
    torch.testing.assert_close(left / case["scale"], short / case["scale"], rtol=0, atol=1e-10)


def by_programme(low, high, normal, value, norm):
    """L-infinity: (u, t) with -t <= u <= t; L1: the positive and the negative part of u."""
    size = len(normal)
    if norm == "linf":
        identity, ones = np.eye(size), np.ones((size, 1))
        sides = np.vstack([np.hstack([identity, -ones]), np.hstack([-identity, -ones])])
        bounds = [*zip(low, high, strict=True), (0, None)]
        cost, row = np.r_[np.zeros(size), 1.0], np.r_[normal, 0.0]
        return optimize.linprog(cost, sides, np.zeros(2 * size), [row], [-value], bounds).fun
    bounds = [(0, end) for end in high] + [(0, -end) for end in low]
    return optimize.linprog(np.ones(2 * size), A_eq=[np.r_[normal, -normal]], b_eq=[-value], bounds=bounds).fun


def by_enumeration(low, high, normal, value):
    """The shortest of all feasible points that are stationary for some choice of elements at an end of the box."""
    best = np.inf
    for state in itertools.product((None, low, high), repeat=len(normal)):
        move = np.array([0.0 if end is None else end[place] for place, end in enumerate(state)])
        free = np.array([end is None for end in state])
        square = (normal[free] ** 2).sum()
        if square:
            move[free] = -normal[free] * (value + normal @ move) / square
        inside = (move >= low - 1e-12).all() and (move <= high + 1e-12).all()
        if inside and abs(value + normal @ move) < 1e-9:
            best = min(best, np.linalg.norm(move))
    return best


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("seed", range(12))
def test_no_shorter_move_exists(norm, seed):
    size = 1 + seed % 4 if norm == "l2" else 1 + seed
    case = {"size": size, "spread": (0.05, 0.3)[seed % 2], "ties": seed % 3 == 0, "edges": seed % 5 == 0}
    points, normals, values = drawn(**case, scale=1.0, seed=seed)
    moves, checked = move_to_hyperplane(points, normals, values, norm, BOX), 0
    for at, row in np.ndindex(2, 3):
        if values[at, row].abs() > reach(points, normals, values)[at, row] - 1e-9:
            continue
        low, high = (-points[at, row]).numpy(), (1 - points[at, row]).numpy()
        normal, value = normals[row].numpy(), float(values[at, row])
        found = float(distance(moves[at, row][None], norm))
        least = (
            by_enumeration(low, high, normal, value) if norm == "l2" else by_programme(low, high, normal, value, norm)
        )
        assert found == pytest.approx(least, abs=1e-7)
        checked += 1
    assert checked or size <= 3


@pytest.mark.parametrize("norm", NORMS)
def test_float32_is_as_exact_as_its_sums(norm):
    points, normals, values = drawn(3072, 0.2, False, True, 1.0, 5, rows=20, dtype=torch.float32)
    moves = move_to_hyperplane(points, normals, values, norm, BOX)
    exact = move_to_hyperplane(points.double(), normals.double(), values.double(), norm, BOX)
    assert moves.dtype == torch.float32
    short, long = (distance(u.flatten(0, 1), norm).double() for u in (moves, exact))
    torch.testing.assert_close(short, long, rtol=2e-5, atol=0)
    assert float((values + (moves * normals).sum(-1)).abs().max()) < 1e-4


@pytest.mark.parametrize("norm", NORMS)
def test_a_box_of_its_own_and_both_directions(norm):
    points, normals, values = drawn(7, 0.3, False, False, 1.0, 3)
    plain = move_to_hyperplane(points, normals, values, norm, BOX)
    wide = move_to_hyperplane(points * 4 - 2, normals, values * 4, norm, (-2.0, 2.0))
    torch.testing.assert_close(wide, plain * 4, rtol=1e-12, atol=1e-12)
    mirrored = move_to_hyperplane(1 - points, normals, -values, norm, BOX)
    torch.testing.assert_close(mirrored, -plain, rtol=1e-12, atol=1e-12)
    assert bool((move_to_hyperplane(points, normals, values * 0, norm, BOX) == 0).all())


@given(cases)
@settings(max_examples=100, deadline=None, derandomize=True)
def test_a_fixed_number_of_rounds_finds_the_same_level(case):
    points, normals, values = drawn(**case | {"scale": 1.0})
    for weights, limits in ((normals.abs(), points), (normals.square(), points / normals.abs().clamp_min(1e-30))):
        free = level(weights, limits, values.abs())
        torch.testing.assert_close(level(weights, limits, values.abs(), ROUNDS), free, rtol=1e-9, atol=1e-12)


def test_the_slowest_case_found_takes_no_more_than_the_rounds():
    """Limits and weights that fall geometrically: every round passes few limits."""
    place = torch.arange(200, dtype=torch.float64)
    for base in (0.5, 0.7, 0.9):
        weights, limits = base**place, base ** (-0.5 * place)
        full = (weights * limits).sum()
        for share in (0.5, 0.99, 0.999999):
            need = (full * share)[None]
            found = level(weights[None], limits[None], need, ROUNDS)
            assert float((weights * torch.minimum(limits, found)).sum()) == pytest.approx(float(need), rel=1e-6)


@pytest.mark.parametrize("norm", NORMS)
def test_no_slope_and_no_end_are_harmless(norm):
    points = torch.rand(1, 2, 5)
    flat = move_to_hyperplane(points, torch.zeros(2, 5), torch.tensor([[-1.0, 0.0]]), norm, BOX)
    assert bool((flat == 0).all())
    normals = torch.tensor([[1.0, -2.0, 0.0, 1e-30, 1e-44]] * 2)
    far = points + move_to_hyperplane(points, normals, torch.full((1, 2), -1e38), norm, BOX)
    ends = torch.tensor([1.0, 0.0]).expand(1, 2, 2)
    torch.testing.assert_close(far[..., :2], ends, rtol=0, atol=1e-6)
    assert bool(far.isfinite().all())
    assert torch.equal(far[..., 2], points[..., 2])
