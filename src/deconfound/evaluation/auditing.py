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
        """The audit's attacks on the nearest and on a sample of the rest; on all of them if one of the sample falls."""
        size = self._audit.sample_size(len(self._survivors))
        nearest, fell_near = self._nearest(size)
        rest = self._survivors[~torch.isin(self._survivors, nearest)]
        sample = self._run.drawn(rest, min(size, len(rest)))
        fell = self._round("sample", sample)
        complete = fell > 0 or len(sample) == len(rest)
        if fell and len(sample) < len(rest):
            self._round("rest", rest[~torch.isin(rest, sample)])
        missed = 0 if complete else hidden_bound(len(rest), len(sample))
        return self._results, AuditResult(
            attacks=tuple(one.name for one in self._audit.attacks),
            survivors=len(self._survivors),
            nearest=len(nearest),
            nearest_fell=fell_near,
            sampled=len(sample),
            fell=fell,
            complete=complete,
            bound=missed / len(self._run.findings),
        )

    def _nearest(self, size: int) -> tuple[Tensor, int]:
        """Blocks of half a sample in order of nearness, up to the first that holds none that falls."""
        none = self._survivors[:0]
        if self._audit.ranking is None or size == len(self._survivors):
            return none, 0
        margins = self._run.margins(self._audit.ranking, self._survivors)
        blocks = self._survivors[margins.argsort(descending=True, stable=True)].split(math.ceil(size / 2))
        total = 0
        for number, block in enumerate(blocks):
            fell = self._round(f"nearest/{number}", block.sort().values)
            total += fell
            if not fell:
                break
        return torch.cat(blocks[: number + 1]), total

    def _round(self, label: str, places: Tensor) -> int:
        """Every attack on what stands among some places, and how many of them fell."""
        before = len(self._run.findings.standing())
        found = [
            self._run.attack(f"{self._number + k}/{label}", one, places) for k, one in enumerate(self._audit.attacks)
        ]
        pairs = zip(self._results, found, strict=True)
        self._results = [joined(*pair) for pair in pairs] if self._results else found
        return before - len(self._run.findings.standing())


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
