"""Slow attacks on some of the survivors: on those nearest to falling, on a random sample, if need be on all.

Shapes: N survivors; places (N,) int64 within the examples of the evaluation.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from deconfound.core.types import Audit
from deconfound.evaluation.run import Run
from deconfound.functional.statistics import hidden_bound
from deconfound.records import AttackResult, AuditResult


class Auditor:
    """The audit of one evaluation.

    Args:
        run: the evaluation, all other attacks done.
        audit: what runs on how many.
        number: of the first of the audit's attacks within the suite.
    """

    def __init__(self, run: Run, audit: Audit, number: int) -> None:
        self._run, self._audit, self._number = run, audit, number
        self._survivors = run.findings.standing()
        self._results: list[AttackResult] = []

    def audit(self) -> tuple[list[AttackResult], AuditResult]:
        """The audit's attacks on the nearest and on a sample of the rest; on all of them if one of the sample falls.

        The first of the nearest and the sample go together, so that the slow attacks have full batches.
        """
        size = self._audit.sample_size(len(self._survivors))
        order = self._by_nearness(size)
        near = order[: math.ceil(size / 2)]
        rest = without(self._survivors, near)
        sample = self._run.drawn(rest, min(size, len(rest)))
        fallen = self._round("first", torch.cat((near, sample)))
        fell, fell_near = common(sample, fallen), common(near, fallen)
        if fell:
            self._round("rest", without(rest, sample))
            more, fell_more = near[:0], 0
        else:
            more, fell_more = (
                self._onwards(without(order[len(near) :], sample), len(near)) if fell_near else (near[:0], 0)
            )
        unseen = 0 if fell else len(rest) - len(sample) - len(more)
        # What a sample without a victim leaves possible is a number of the rest, of which some were found afterwards.
        missed = min(unseen, max(0, hidden_bound(len(rest), len(sample)) - fell_more))
        return self._results, AuditResult(
            attacks=tuple(one.name for one in self._audit.attacks),
            survivors=len(self._survivors),
            nearest=len(near) + len(more),
            nearest_fell=fell_near + fell_more,
            sampled=len(sample),
            fell=fell,
            complete=not unseen,
            bound=missed / len(self._run.findings),
        )

    def _by_nearness(self, size: int) -> Tensor:
        """All survivors, the nearest to falling first; none without a ranking, or where all are audited anyway."""
        if self._audit.ranking is None or size == len(self._survivors):
            return self._survivors[:0]
        margins = self._run.margins(self._audit.ranking, self._survivors)
        return self._survivors[margins.argsort(descending=True, stable=True)]

    def _onwards(self, order: Tensor, size: int) -> tuple[Tensor, int]:
        """Blocks in order of nearness, up to the first that holds none that falls, and how many fell."""
        seen, total = 0, 0
        for number, block in enumerate(order.split(size)):
            fell = len(self._round(f"nearest/{number}", block))
            seen, total = seen + len(block), total + fell
            if not fell:
                break
        return order[:seen], total

    def _round(self, label: str, places: Tensor) -> Tensor:
        """Every attack on what stands among some places, and which of them fell."""
        places = places.sort().values
        found = [
            self._run.attack(f"{self._number + k}/{label}", one, places) for k, one in enumerate(self._audit.attacks)
        ]
        pairs = zip(self._results, found, strict=True)
        self._results = [joined(*pair) for pair in pairs] if self._results else found
        return without(places, self._run.findings.standing())


def without(places: Tensor, others: Tensor) -> Tensor:
    """Those of the places that the others do not hold, in their order."""
    return places[~torch.isin(places, others)]


def common(places: Tensor, others: Tensor) -> int:
    """How many of the places the others hold too."""
    return int(torch.isin(places, others).sum())


def joined(first: AttackResult, second: AttackResult) -> AttackResult:
    """One attack in two rounds as one result."""
    return first.model_copy(
        update={
            "attacked": first.attacked + second.attacked,
            "survivors": second.survivors,
            "seconds": first.seconds + second.seconds,
            "forwards": first.forwards + second.forwards,
            "backwards": first.backwards + second.backwards,
        }
    )
