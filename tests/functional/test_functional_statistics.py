"""Intervals and paired tests against published values, scipy and enumeration."""

from __future__ import annotations

import math
from itertools import permutations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import optimize, stats

from deconfound.errors import InputError
from deconfound.functional.statistics import EXACT_UP_TO, holm, mcnemar, paired_interval, spearman, wilson_interval


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


Z = 1.959963984540054


@pytest.mark.parametrize(
    ("only_first", "only_second", "trials", "confidence", "low", "high"),
    [
        (0, 1, 44, 0.90, -0.096, None),  # Tango 1998, section 6.1: soft contact lenses
        (1, 7, 21, 0.95, -0.517, -0.026),  # Fagerland, Lydersen and Laake 2014: airway hyper-responsiveness
        (60, 20, 1000, 0.95, 0.0231, 0.0584),  # R package PropCIs, scoreci.mp(20, 60, 1000)
        (28, 25, 618, 0.90, -0.0148, 0.0247),  # scoreci.mp(25, 28, 618, 0.90)
    ],
)
def test_the_paired_interval_gives_published_ends(only_first, only_second, trials, confidence, low, high):
    ends = paired_interval(only_first, only_second, trials, confidence)
    unit = 5e-4 if abs(low) == round(abs(low), 3) else 5e-5
    assert ends[0] == pytest.approx(low, abs=unit)
    assert high is None or ends[1] == pytest.approx(high, abs=unit)


def paired_counts(most):
    both = st.integers(1, most).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))
    return both.flatmap(lambda bn: st.tuples(st.just(bn[0]), st.integers(0, bn[1] - bn[0]), st.just(bn[1])))


def score(only_first, only_second, trials, d):
    """The score statistic at difference d, with the nuisance share found by maximising the likelihood itself."""

    def slope(q):
        """d/dq of b log(q + d) + c log q + (n - b - c) log(1 - 2 q - d), falling in q."""
        rest = trials - only_first - only_second
        return only_first / (q + d) + only_second / q - rest / (high - q)  # 1 - 2 q - d would round to 0 at its end

    low, high = max(0.0, -d), (1 - d) / 2
    inset = (high - low) * 1e-13
    ends = slope(low + inset), slope(high - inset)
    q = low if ends[0] <= 0 else high if ends[1] >= 0 else optimize.brentq(slope, low + inset, high - inset, xtol=1e-15)
    return (only_first - only_second - trials * d) / math.sqrt(trials * (2 * q + d - d * d))


@given(paired_counts(3000))
@example((318, 0, 319))
@settings(max_examples=200, deadline=None, derandomize=True)
def test_the_paired_interval_solves_its_equation(counts):
    """The statistic, with the constrained likelihood maximised numerically, is z at one end and -z at the other."""
    only_first, only_second, trials = counts
    low, high = paired_interval(*counts)
    assert -1 <= low <= (only_first - only_second) / trials <= high <= 1
    if low > -1:
        assert score(*counts, low) == pytest.approx(Z, rel=1e-5)
    if high < 1:
        assert score(*counts, high) == pytest.approx(-Z, rel=1e-5)
    assert paired_interval(only_second, only_first, trials) == pytest.approx((-high, -low), abs=1e-9)
    wider = paired_interval(*counts, confidence=0.99)
    assert wider[0] <= low <= high <= wider[1]


@given(paired_counts(3000))
@settings(max_examples=300, deadline=None, derandomize=True)
def test_the_paired_interval_leaves_zero_out_where_mcnemars_statistic_is_significant(counts):
    only_first, only_second, _ = counts
    low, high = paired_interval(*counts)
    assert (low > 0 or high < 0) == ((only_first - only_second) ** 2 > Z**2 * (only_first + only_second))


@pytest.mark.parametrize("n", [1, 20, 10_000])
def test_the_paired_interval_without_and_with_nothing_but_discordant_pairs(n):
    half = Z**2 / (n + Z**2)
    assert paired_interval(0, 0, n) == pytest.approx((-half, half), abs=1e-9)
    low, high = paired_interval(n, 0, n)
    assert high == 1
    assert score(n, 0, n, low) == pytest.approx(Z, rel=1e-5)


@pytest.mark.parametrize(
    ("counts", "field"),
    [((0, 0, 0), "trials"), ((-1, 0, 5), "only_first"), ((6, 0, 5), "only_first"), ((3, 3, 5), "only_second")],
)
def test_the_paired_interval_refuses_impossible_counts(counts, field):
    with pytest.raises(InputError, match=f"^{field}: got "):
        paired_interval(*counts)


@pytest.mark.parametrize(
    ("given_p", "adjusted"),
    [
        ([0.01, 0.02, 0.03, 0.04], [0.04, 0.06, 0.06, 0.06]),  # R: p.adjust(c(.01, .02, .03, .04), "holm")
        ([0.005, 0.6, 0.01, 0.5], [0.02, 1.0, 0.03, 1.0]),
        ([0.2], [0.2]),
        ([], []),
    ],
)
def test_holm_gives_known_values(given_p, adjusted):
    assert holm(given_p) == pytest.approx(adjusted)


@given(st.lists(st.floats(0, 1), max_size=8), st.floats(0.001, 0.5))
@settings(max_examples=200, deadline=None, derandomize=True)
def test_holm_rejects_what_the_step_down_procedure_rejects(p_values, alpha):
    """One by one from the smallest, against alpha / (m - k), until one is not rejected."""
    rejected = set()
    for k, place in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        if p_values[place] * (len(p_values) - k) > alpha:
            break
        rejected.add(place)
    assert {i for i, p in enumerate(holm(p_values)) if p <= alpha} == rejected


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=3, max_size=6))
@settings(max_examples=20, deadline=None)
def test_spearman_is_the_share_of_orders_at_least_as_far(pairs):
    first, second = ([pair[i] for pair in pairs] for i in (0, 1))
    rho, p = spearman(first, second)
    if len(set(first)) == 1 or len(set(second)) == 1:
        assert math.isnan(rho)
        assert math.isnan(p)
        return
    expected = stats.spearmanr(first, second).statistic
    assert rho == pytest.approx(expected)
    orders = [stats.spearmanr(first, order).statistic for order in permutations(second)]
    assert p == pytest.approx(sum(abs(one) >= abs(expected) - 1e-9 for one in orders) / len(orders))


@pytest.mark.parametrize("others", [3, EXACT_UP_TO - 1, EXACT_UP_TO, 12])
def test_spearman_passes_nan_on_and_ranks_infinity(others):
    values, order = [math.nan, *range(others)], list(range(others + 1))
    for pair in ((values, order), (order, values)):
        assert all(map(math.isnan, spearman(*pair)))
    assert spearman([math.inf, *range(others)], [99, *range(others)])[0] == pytest.approx(1)


def test_spearman_of_many_and_bad_input():
    first, second = list(range(12)), [3, 1, 2, 0, 5, 4, 9, 7, 8, 6, 11, 10]
    found = stats.spearmanr(first, second)
    assert spearman(first, second) == pytest.approx((found.statistic, found.pvalue))
    assert spearman([1, 2, 3], [3, 2, 1]) == (-1.0, pytest.approx(2 / 6))
    with pytest.raises(InputError, match="second: got 2; expected as many values as first, 3"):
        spearman([1, 2, 3], [1, 2])
    with pytest.raises(InputError, match="first: got 1; expected at least two"):
        spearman([1], [1])
