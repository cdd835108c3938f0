"""From what a run has found to the record of it."""

from __future__ import annotations

import statistics
from dataclasses import dataclass

from deconfound.core.protocols import PredictingJudge
from deconfound.core.threat import ThreatModel
from deconfound.evaluation.curve import Curve
from deconfound.evaluation.ledger import Ledger
from deconfound.evaluation.masking import verdict
from deconfound.evaluation.provenance import Provenance
from deconfound.evaluation.run import Run
from deconfound.functional.statistics import wilson_interval
from deconfound.records import (
    AttackResult,
    AuditResult,
    Check,
    ColumnResult,
    EvaluationRecord,
    Outcome,
    Spread,
    Threat,
    Verdict,
)

# A number that nobody tried to doubt is not to be relied on.
UNCHECKED = Verdict(reliable=False, reasons=("the masking checks were not run",))


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What an evaluation consists of besides its outcomes."""

    attacks: tuple[AttackResult, ...]
    audit: AuditResult | None
    columns: tuple[ColumnResult, ...]
    curve: Curve | None


def recorded(
    run: Run,
    parts: Parts,
    checks: tuple[Check, ...] | None,
    threat: ThreatModel,
    suite: str,
    provenance: Provenance,
    seed: int,
) -> EvaluationRecord:
    """The record of a run."""
    outcomes = run.findings.outcomes()
    n, spread = len(outcomes), _spread(run)
    clean, robust = accuracies(outcomes, spread)
    cost = run.ledger.cost("clean/", "attack/")
    notes = (*provenance.notes, *_notes(run.ledger, parts.curve is not None, checks is not None))
    return EvaluationRecord(
        **(provenance.fields() | {"notes": notes}),
        threat=Threat(norm=threat.norm, eps=threat.eps, box=threat.box),
        suite=suite,
        n=n,
        seed=seed,
        clean_accuracy=clean,
        clean_interval=wilson_interval(round(clean * n), n),
        robust_accuracy=robust,
        robust_interval=wilson_interval(round(robust * n), n),
        verdict=UNCHECKED if checks is None else verdict(checks),
        attacks=parts.attacks,
        outcomes=outcomes,
        audit=parts.audit,
        columns=parts.columns,
        spread=spread,
        curve=parts.curve.points if parts.curve else (),
        gallery=tuple(run.pictures),
        forwards=cost.forwards,
        backwards=cost.backwards,
        seconds=cost.seconds,
        cpu_seconds=cost.cpu_seconds,
    )


def accuracies(outcomes: tuple[Outcome, ...], spread: Spread | None) -> tuple[float, float]:
    """Clean and robust accuracy: shares of the outcomes, or means over the seeds of a random judge."""
    if spread is not None:
        return statistics.fmean(spread.clean), statistics.fmean(spread.robust)
    clean = sum(outcome.broken_by != "clean" for outcome in outcomes)
    robust = sum(outcome.broken_by is None for outcome in outcomes)
    return clean / len(outcomes), robust / len(outcomes)


def _spread(run: Run) -> Spread | None:
    judge = run.referee.judge
    if not isinstance(judge, PredictingJudge):
        return None
    clean, robust = run.findings.accuracies()
    return Spread(
        judge=judge.settings(),
        clean=clean,
        robust=robust,
        clean_deviation=statistics.stdev(clean),
        robust_deviation=statistics.stdev(robust),
    )


def _notes(ledger: Ledger, curve: bool, checks: bool) -> list[str]:
    """What the checks and the curve cost, which is no part of the suite's figures."""
    notes = []
    for done, title, start in ((checks, "masking checks", "masking"), (curve, "accuracy curve", "curve/")):
        cost = ledger.cost(start)
        timed = f"{cost.seconds:.2f} s, {cost.forwards} images forwarded, {cost.backwards} backwards"
        notes.append(f"{title}: {timed}, not part of the suite's cost" if done else f"{title}: not run")
    if ledger.crew.size > 1:
        notes.append(f"{ledger.crew.size} processes shared the work; seconds are summed over them")
    return notes
