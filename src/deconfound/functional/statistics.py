"""Intervals and paired tests for accuracies."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import permutations

import numpy as np
from scipy import optimize, stats

from deconfound.errors import require

EXACT_UP_TO = 8
"""Pairs up to which a rank correlation is tested over all orders, 8! of them."""


def wilson_interval(successes: int, trials: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval for a binomial share (Wilson 1927).

    centre (p + z^2/2n) / (1 + z^2/n), half width z sqrt(p(1-p)/n + z^2/4n^2) / (1 + z^2/n), both ends within [0, 1].

    >>> low, high = wilson_interval(90, 100)
    >>> round(low, 4), round(high, 4)
    (0.8256, 0.9448)
    """
    require(trials > 0, "trials", trials, "at least one trial")
    require(0 <= successes <= trials, "successes", successes, f"between 0 and {trials}")
    interval = stats.binomtest(successes, trials).proportion_ci(confidence_level=confidence, method="wilson")
    return float(interval.low), float(interval.high)


def clopper_pearson_lower(successes: int, trials: int, alpha: float) -> float:
    """The exact lower bound of a binomial share, right with probability 1 - alpha or more (Clopper & Pearson 1934).

    The alpha quantile of Beta(k, n - k + 1), 0 for k = 0: below it k or more successes would have a chance under alpha.

    >>> round(clopper_pearson_lower(100, 100, 0.001), 6) == round(0.001 ** (1 / 100), 6)
    True
    """
    require(trials > 0, "trials", trials, "at least one trial")
    require(0 <= successes <= trials, "successes", successes, f"between 0 and {trials}")
    require(0 < alpha < 1, "alpha", alpha, "a level between 0 and 1")
    return float(stats.beta.ppf(alpha, successes, trials - successes + 1)) if successes else 0.0


def mcnemar(first: Sequence[bool], second: Sequence[bool]) -> float:
    """Two-sided exact McNemar test: the p-value that two classifiers err equally often on the same examples.

    Only examples on which exactly one of the two is right count; under the null each falls either way with 1/2.

    >>> mcnemar([True] * 6 + [False], [False] * 6 + [False])
    0.03125
    """
    require(len(first) == len(second), "second", len(second), f"as many outcomes as first, {len(first)}")
    only_first = sum(a and not b for a, b in zip(first, second, strict=True))
    only_second = sum(b and not a for a, b in zip(first, second, strict=True))
    if only_first + only_second == 0:
        return 1.0
    return float(stats.binomtest(only_first, only_first + only_second, 0.5).pvalue)


def paired_interval(only_first: int, only_second: int, trials: int, confidence: float = 0.95) -> tuple[float, float]:
    """Tango's score interval for the difference of two shares of right answers to the same questions.

    The ends solve (b - c - n d)^2 = z^2 n (2 q(d) + d (1 - d)), where q(d) = (sqrt(B^2 - 4 A C) - B) / (2 A), with
    A = 2 n, B = (2 n - b + c) d - b - c, C = -c d (1 - d), is the most likely share of c under the difference d.
    It leaves 0 out exactly where McNemar's statistic (b - c)^2 / (b + c) is above z^2.

    Args:
        only_first: b, how many only the first answered right.
        only_second: c, how many only the second answered right.
        trials: n, all questions.
        confidence: of the interval.

    Returns:
        Lower and upper end of first minus second, within [-1, 1].

    Raises:
        InputError: counts that do not fit together.

    Source: Tango 1998, Statistics in Medicine 17, equations 24 to 26.

    >>> low, high = paired_interval(60, 20, 1000)
    >>> round(low, 4), round(high, 4)
    (0.0231, 0.0584)
    """
    require(trials > 0, "trials", trials, "at least one trial")
    require(0 <= only_first <= trials, "only_first", only_first, f"between 0 and {trials}")
    require(0 <= only_second <= trials - only_first, "only_second", only_second, f"between 0 and {trials - only_first}")
    z = float(stats.norm.isf((1 - confidence) / 2))
    estimate = (only_first - only_second) / trials

    def excess(d: float) -> float:
        variance = 2 * _likely_share(only_first, only_second, trials, d) + d * (1 - d)
        return (only_first - only_second - trials * d) ** 2 - z**2 * trials * variance

    # Beside the estimate: without discordant pairs the equation has a second root there, which is not an end.
    low = -1.0 if estimate == -1 else optimize.brentq(excess, -1.0, estimate - 1e-9, xtol=1e-14)
    high = 1.0 if estimate == 1 else optimize.brentq(excess, estimate + 1e-9, 1.0, xtol=1e-14)
    return float(low), float(high)


def _likely_share(only_first: int, only_second: int, trials: int, d: float) -> float:
    """q(d) of ``paired_interval``; the root is written so that nothing cancels."""
    linear = (2 * trials - only_first + only_second) * d - only_first - only_second
    constant = -only_second * d * (1 - d)
    root = math.sqrt(max(0.0, linear**2 - 8 * trials * constant))
    if linear > 0:
        return -2 * constant / (root + linear)
    return (root - linear) / (4 * trials)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values: those at most alpha are rejected with a family-wise error of at most alpha.

    The k-th smallest of m becomes max over j <= k of min(1, (m - j + 1) p_(j)) (Holm 1979).

    >>> [round(p, 3) for p in holm([0.04, 0.01, 0.03])]
    [0.06, 0.03, 0.06]
    """
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = largest
    return adjusted


def spearman(first: Sequence[float], second: Sequence[float]) -> tuple[float, float]:
    """Spearman's rank correlation and the two-sided p-value that the two are in no order together.

    Correlation of the ranks, ties sharing their mean. Up to eight pairs p is exact, the share of all orders of the
    second that correlate at least as much, so it is never below 2 / n!; beyond that it is by Student's t with n - 2
    degrees of freedom. NaN for both where one of them is constant or has a NaN.

    >>> rho, p = spearman([1, 2, 3, 4], [10, 30, 20, 90])
    >>> round(rho, 2), round(p, 4)
    (0.8, 0.3333)
    """
    require(len(first) == len(second), "second", len(second), f"as many values as first, {len(first)}")
    require(len(first) >= 2, "first", len(first), "at least two values")
    a, b = (ranks - ranks.mean() for ranks in (stats.rankdata(values) for values in (first, second)))
    size = math.sqrt(float(a @ a) * float(b @ b))
    if not size > 0:  # NaN too: the ranks of values with a NaN among them are all NaN
        return math.nan, math.nan
    if len(a) > EXACT_UP_TO:
        found = stats.spearmanr(first, second)
        return float(found.statistic), float(found.pvalue)
    rho = float(a @ b) / size
    orders = b[np.array(list(permutations(range(len(b)))))] @ a / size
    return rho, float(np.mean(np.abs(orders) >= abs(rho) - 1e-12))


def hidden_bound(population: int, sample: int, confidence: float = 0.95) -> int:
    """The most members with a property that a sample without any of them leaves possible.

    The largest F with C(N - F, m) / C(N, m) >= 1 - confidence: the exact (hypergeometric) upper bound for drawing m of
    N without replacement and finding none.

    >>> hidden_bound(1000, 100), hidden_bound(50, 50)
    (28, 0)
    """
    require(0 <= sample <= population, "sample", sample, f"between 0 and {population}")
    level = (1 - confidence) * (1 - 1e-9)  # a tie counts as possible, whichever way the chance of it was rounded
    low, high = 0, population - sample  # the chance of finding none falls as F grows
    while low < high:
        middle = (low + high + 1) // 2
        if stats.hypergeom.pmf(0, population, middle, sample) >= level:
            low = middle
        else:
            high = middle - 1
    return low
