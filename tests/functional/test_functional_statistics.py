"""Intervals and paired tests against published values, scipy and enumeration."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from deconfound.errors import InputError
from deconfound.functional.statistics import mcnemar, wilson_interval


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [
        (81, 263, 0.2553, 0.3662),  # Newcombe 1998, table I, method 3 (score without continuity correction)
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_gives_the_published_intervals(successes, trials, low, high):
    assert wilson_interval(successes, trials) == pytest.approx((low, high), abs=5e-5)


@given(st.integers(1, 100_000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
@settings(max_examples=200, deadline=None, derandomize=True)
def test_wilson_solves_its_equation_and_stays_in_the_unit_interval(counts):
    """Both ends solve (p - share)^2 = z^2 p (1 - p) / n."""
    successes, trials = counts
    share = successes / trials
    low, high = wilson_interval(successes, trials)
    assert 0 <= low <= share <= high <= 1
    for p in (low, high):
        assert (p - share) ** 2 == pytest.approx(1.959963984540054**2 * p * (1 - p) / trials, abs=1e-12, rel=1e-6)
    mirrored = wilson_interval(trials - successes, trials)
    assert mirrored == pytest.approx((1 - high, 1 - low), abs=1e-12)


def test_wilson_ends_are_exact_at_nothing_and_everything():
    assert wilson_interval(0, 10)[0] == 0
    assert wilson_interval(10, 10)[1] == 1
    assert wilson_interval(5, 10, confidence=0.99)[0] < wilson_interval(5, 10)[0]


@pytest.mark.parametrize(
    ("successes", "trials", "field"), [(0, 0, "trials"), (-1, 5, "successes"), (6, 5, "successes")]
)
def test_wilson_refuses_impossible_counts(successes, trials, field):
    with pytest.raises(InputError, match=f"^{field}: got "):
        wilson_interval(successes, trials)


@pytest.mark.parametrize(("first_only", "second_only"), [(0, 0), (1, 0), (6, 0), (3, 5), (0, 12), (10, 10), (25, 40)])
def test_mcnemar_is_the_exact_binomial_test_of_the_discordant_pairs(first_only, second_only):
    first = [True] * first_only + [False] * second_only + [True] * 7 + [False] * 4
    second = [False] * first_only + [True] * second_only + [True] * 7 + [False] * 4
    discordant, least = first_only + second_only, min(first_only, second_only)
    # Two-sided by symmetry: twice the smaller tail, at most 1.
    tail = sum(math.comb(discordant, k) for k in range(least + 1)) / 2**discordant
    assert mcnemar(first, second) == pytest.approx(min(1.0, 2 * tail), rel=1e-9)
    assert mcnemar(second, first) == mcnemar(first, second)
    if discordant:
        assert mcnemar(first, second) == pytest.approx(stats.binomtest(least, discordant).pvalue)


def test_mcnemar_refuses_different_numbers_of_outcomes():
    with pytest.raises(InputError, match=r"^second: got 2; expected as many outcomes as first, 1$"):
        mcnemar([True], [True, False])
