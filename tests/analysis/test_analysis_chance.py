"""What independence leaves of correlations: its level, its size, and what is planted above it."""

from __future__ import annotations

import pytest
import torch
from scipy import stats

from deconfound.analysis.chance import LEVEL, chance_correlations
from deconfound.analysis.correlations import measured_correlations

FIGURES = ("largest", "mean", "canonical_largest", "canonical_mean_square")


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_independent_sides_lie_above_it_as_often_as_it_says():
    """100 draws, heavy-tailed, at 5 %: a right test leaves the range with probability 1 in 1000 per figure."""
    g, draws = generator(), 100
    above = dict.fromkeys(FIGURES, 0)
    for draw in range(draws):
        content = torch.randn(40, 3, generator=g) ** 3
        style = torch.randn(40, 8, generator=g) @ torch.randn(8, 8, generator=g)
        found, chance = measured_correlations(content, style), chance_correlations(content, style, draw)
        for name in FIGURES:
            above[name] += found.above(chance, name)
    low, high = stats.binom.ppf((5e-4, 1 - 5e-4), draws, LEVEL)
    assert low < high < 20
    assert all(low <= count <= high for count in above.values()), above


@pytest.mark.parametrize(("images", "dimension", "largest"), [(100, 128, 0.34), (360, 128, 0.19)])
def test_the_largest_is_far_above_that_of_one_correlation(images, dimension, largest):
    g = generator()
    content, style = torch.randn(images, 10, generator=g), torch.randn(images, dimension, generator=g)
    chance = chance_correlations(content, style)
    assert chance.largest > 3 * images**-0.5
    assert chance.largest == pytest.approx(largest, abs=0.06)
    assert chance.mean == pytest.approx((2 / torch.pi) ** 0.5 * images**-0.5, rel=0.1)


def test_the_canonical_mean_square_is_directions_over_images():
    g = generator()
    chance = chance_correlations(torch.randn(200, 5, generator=g), torch.randn(200, 30, generator=g))
    assert chance.canonical_mean_square == pytest.approx(30 / 199, rel=0.3)
    few = chance_correlations(torch.randn(20, 3, generator=g), torch.randn(20, 30, generator=g))
    assert few.canonical_mean_square == pytest.approx(1)


def test_a_planted_relation_is_above():
    g = generator()
    style = torch.randn(300, 20, generator=g)
    content = style @ torch.randn(20, 4, generator=g) + torch.randn(300, 4, generator=g)
    found, chance = measured_correlations(content, style), chance_correlations(content, style)
    assert all(found.above(chance, name) for name in FIGURES)


def test_canonical_correlations_of_1_are_not_above_1():
    g = generator()
    content, style = torch.randn(20, 3, generator=g), torch.randn(20, 30, generator=g)
    found, chance = measured_correlations(content, style), chance_correlations(content, style)
    assert not found.above(chance, "canonical_mean_square")
    assert found.above(None, "largest") is None


def test_the_seed_is_all_there_is():
    g = generator()
    content, style = torch.randn(30, 3, generator=g), torch.randn(30, 5, generator=g)
    random = torch.get_rng_state()
    assert chance_correlations(content, style, 4) == chance_correlations(content, style, 4)
    assert chance_correlations(content, style, 4) != chance_correlations(content, style, 5)
    assert torch.equal(random, torch.get_rng_state())
