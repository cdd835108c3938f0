"""How much a suite spends on stochastic judges and on declared attacks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from deconfound.errors import unknown_name


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What is spent per example; suites on deterministic judges are the same under every budget.

    Attributes:
        points: examples that are judged unless the user says how many; None for all.
        draws: of each gradient (EOT).
        steps: of each gradient attack.
        queries: of Square.
        spsa_steps, spsa_pairs: of SPSA.
        query_draws: over which each query's loss is averaged.
    """

    points: int | None
    draws: int
    steps: int
    queries: int
    spsa_steps: int
    spsa_pairs: int
    query_draws: int


BUDGETS: Mapping[str, Budget] = MappingProxyType(
    {
        "demo": Budget(points=50, draws=5, steps=20, queries=100, spsa_steps=4, spsa_pairs=12, query_draws=1),
        "normal": Budget(points=100, draws=20, steps=100, queries=1000, spsa_steps=20, spsa_pairs=25, query_draws=5),
        "full": Budget(points=None, draws=20, steps=100, queries=5000, spsa_steps=100, spsa_pairs=1024, query_draws=5),
    }
)
"""``normal`` has AutoAttack's EOT (20 draws, 100 steps); ``full`` its Square and an SPSA of 2 048 queries a step."""


def budget(name: str) -> Budget:
    """The budget of that name.

    Raises:
        InputError: no such budget.

    >>> budget("demo").draws
    5
    """
    if name not in BUDGETS:
        raise unknown_name("budget", name, BUDGETS)
    return BUDGETS[name]
