"""Intervals and paired tests for accuracies."""

from __future__ import annotations

from collections.abc import Sequence

from scipy import stats

from deconfound.errors import require


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
