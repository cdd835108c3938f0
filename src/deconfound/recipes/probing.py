"""The attacks that an evaluation's masking checks compare, and the one that measures accuracy against the radius."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

from deconfound.attacks import PGD, Square
from deconfound.attacks.budgets import budget
from deconfound.core.protocols import Classifier
from deconfound.core.threat import ThreatModel
from deconfound.evaluation import Probes

STEPS, QUERIES, DRAWS = 20, 200, 5


def probe_draws(spent: str, *, stochastic: bool) -> int:
    """Draws of each gradient: the budget's, at most five, on a random model.

    Args:
        spent: name of the budget.
        stochastic: whether the model is random.
    """
    return min(DRAWS, budget(spent).draws) if stochastic else 1


def probe(draws: int) -> Callable[[ThreatModel], PGD]:
    """PGD of twenty steps.

    Args:
        draws: of each gradient.
    """
    return partial(PGD, steps=STEPS, draws=draws)


def probes(sources: Mapping[str, Classifier], draws: int, left_out: Sequence[str] | None) -> Probes:
    """What the checks compare.

    Args:
        sources: other classifiers, for the check by transfer.
        draws: of each gradient.
        left_out: attacks that a random model declares against itself and the suite does not run.
    """
    return Probes(
        single_step=partial(PGD, steps=1, relative_step=1.0, start="none", draws=draws, name="fgsm"),
        iterative=probe(draws),
        black_box=partial(Square, queries=QUERIES, draws=draws),
        transfer=tuple(sources.values()),
        left_out=left_out,
    )
