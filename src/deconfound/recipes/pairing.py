"""Evaluations of one data set to rows and paired tests: the mathematics behind ``deconfound compare``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations
from typing import Any

from deconfound.functional.statistics import holm, mcnemar, paired_interval
from deconfound.records import (
    ComparedEvaluation,
    Comparison,
    EvaluationRecord,
    Outcome,
    PairedDifference,
    PairedTest,
)
from deconfound.reporting.strength import judge_text
from deconfound.reporting.text import clean, listing, percent, threat_text, verdict_text

# Robust accuracies are comparable only where these are equal.
_QUESTION: tuple[tuple[str, Callable[[EvaluationRecord], str]], ...] = (
    ("threat", lambda record: threat_text(record.threat)),
    ("suite", lambda record: clean(record.suite)),
    ("budget", lambda record: clean(record.budget)),
)


def paired(rows: Sequence[ComparedEvaluation], records: Sequence[EvaluationRecord], adjust: str) -> Comparison:
    """The comparison of evaluations of one data set.

    Args:
        rows: one for each record, with a label of its own.
        records: the evaluations, with their examples.
        adjust: ``"holm"`` or ``"none"``; robust and clean accuracy are adjusted apart, over all pairs that are tested.

    Returns:
        A test for each two rows, or the reason why there is none, and what to be wary of.
    """
    remarks = [text for row, record in zip(rows, records, strict=True) for text in _provisos(row.label, record)]
    pairs = []
    for (one, a), (other, b) in combinations(zip(rows, records, strict=True), 2):
        pair = tested(one.label, a, other.label, b)
        pairs.append(pair)
        remarks += [] if pair.not_compared else _reservations(pair, a, b)
    return Comparison(
        data=records[0].data,
        data_digest=records[0].data_digest,
        evaluations=tuple(rows),
        pairs=tuple(adjusted(pairs) if adjust == "holm" else pairs),
        adjust=adjust,
        warnings=tuple(remarks),
    )


def tested(first: str, a: EvaluationRecord, second: str, b: EvaluationRecord) -> PairedTest:
    """Two evaluations of the same data, tested on the examples that both saw, or why they are not.

    Args:
        first, second: labels.
        a, b: the evaluations, with their examples.
    """
    reasons = [f"{name} {text(a)} against {text(b)}" for name, text in _QUESTION if text(a) != text(b)]
    if reasons:
        return PairedTest(first=first, second=second, not_compared=listing(reasons))
    theirs = {outcome.index: outcome for outcome in b.outcomes}
    shared = [(outcome, theirs[outcome.index]) for outcome in a.outcomes if outcome.index in theirs]
    if not shared:
        return PairedTest(first=first, second=second, not_compared=f"no example in common (n {a.n} and n {b.n})")
    if odd := [one.index for one, other in shared if one.label != other.label]:
        reason = f"the records disagree on the label of example {odd[0]}"
        return PairedTest(first=first, second=second, not_compared=reason)
    return PairedTest(
        first=first,
        second=second,
        n=len(shared),
        robust=_difference([(_stands(one), _stands(other)) for one, other in shared]),
        clean=_difference([(_right(one), _right(other)) for one, other in shared]),
    )


def _stands(outcome: Outcome) -> bool:
    return outcome.broken_by is None


def _right(outcome: Outcome) -> bool:
    return outcome.broken_by != "clean"


def _difference(pairs: Sequence[tuple[bool, bool]]) -> PairedDifference:
    only_first = sum(one and not other for one, other in pairs)
    only_second = sum(other and not one for one, other in pairs)
    return PairedDifference(
        only_first=only_first,
        only_second=only_second,
        difference=(only_first - only_second) / len(pairs),
        interval=paired_interval(only_first, only_second, len(pairs)),
        p_value=mcnemar([one for one, _ in pairs], [other for _, other in pairs]),
    )


def adjusted(pairs: Sequence[PairedTest]) -> list[PairedTest]:
    """The pairs with p-values adjusted by Holm over all that are tested, robust and clean accuracy apart."""
    robust = iter(holm([pair.robust.p_value for pair in pairs if pair.robust]))
    standard = iter(holm([pair.clean.p_value for pair in pairs if pair.clean]))

    def one(pair: PairedTest) -> PairedTest:
        if pair.robust is None or pair.clean is None:
            return pair
        robustly = pair.robust.model_copy(update={"adjusted_p_value": next(robust)})
        cleanly = pair.clean.model_copy(update={"adjusted_p_value": next(standard)})
        return pair.model_copy(update={"robust": robustly, "clean": cleanly})

    return [one(pair) for pair in pairs]


def same_attacks(a: EvaluationRecord, b: EvaluationRecord) -> bool:
    """Whether both met the same attacks with the same settings, those that ran by themselves among them."""
    return _met(a) == _met(b)


def _met(record: EvaluationRecord) -> list[tuple[str, str, dict[str, Any]]]:
    alone = [(column.group, column.name, column.settings) for column in record.columns]
    return [*(("", attack.name, attack.settings) for attack in record.attacks), *alone]


def _provisos(label: str, record: EvaluationRecord) -> list[str]:
    lines = []
    if not record.verdict.reliable:
        lines.append(f"{label}: robust accuracy {percent(record.robust_accuracy)} is {verdict_text(record.verdict)}.")
    if (audit := record.audit) is not None and not audit.complete:
        lines.append(
            f"{label}: the slow attacks of the suite {clean(record.suite)} saw {audit.nearest + audit.sampled}"
            f" of {audit.survivors} survivors; they could have broken at most {percent(audit.bound)} of all examples"
            " besides (95 % confidence)."
        )
    if (spread := record.spread) is not None:
        seeds = len(spread.robust)
        lines.append(f"{label}: accuracies are means over {seeds} seeds of a random judge, pairs count its majority.")
    return lines


def _reservations(pair: PairedTest, a: EvaluationRecord, b: EvaluationRecord) -> list[str]:
    both, lines = f"{pair.first} and {pair.second}", []
    if pair.n < max(a.n, b.n):
        lines.append(f"{both} are tested on the {pair.n} examples that both saw, of n {a.n} and n {b.n}.")
    if not same_attacks(a, b):
        lines.append(f"{both} met different attacks or settings under the suite {clean(a.suite)}.")
    if a.spread is not None and b.spread is not None and a.spread.judge != b.spread.judge:
        lines.append(f"{both} were judged differently: {judge_text(a.spread)} and {judge_text(b.spread)}.")
    return lines
