"""Evaluations of one data set to rows and paired tests: the mathematics behind ``deconfound compare``."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from typing import Any, TypeAlias

from deconfound.functional.statistics import holm, mcnemar, paired_interval
from deconfound.records import (
    ComparedEvaluation,
    Comparison,
    EvaluationRecord,
    Outcome,
    PairedDifference,
    PairedTest,
    StudyResult,
    Threat,
)
from deconfound.reporting.strength import judge_text
from deconfound.reporting.text import clean, listing, percent, threat_text, verdict_text

_Asked: TypeAlias = EvaluationRecord | StudyResult
_Stood: TypeAlias = Mapping[int, tuple[bool, bool]]  # by example: clean right, and right whatever attacks made of it

# Of a radius: 8/255 that another version or a hand wrote may differ in its last places.
_ROUNDING = 1e-9


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
    theirs = {outcome.index: outcome.label for outcome in b.outcomes}
    odd = [one.index for one in a.outcomes if one.label != theirs.get(one.index, one.label)]
    if odd and not _unlike(a, b):
        reason = f"the records disagree on the label of example {odd[0]}"
        return PairedTest(first=first, second=second, not_compared=reason)
    return tested_on((first, a, stood(a.outcomes)), (second, b, stood(b.outcomes)))


def tested_on(one: tuple[str, _Asked, _Stood], other: tuple[str, _Asked, _Stood]) -> PairedTest:
    """Two judgements of the same data, tested on the examples that both saw, or why they are not.

    Args:
        one, other: label, what was asked, and which examples stood.
    """
    (first, a, mine), (second, b, theirs) = one, other
    if reasons := _unlike(a, b):
        return PairedTest(first=first, second=second, not_compared=listing(reasons))
    shared = [index for index in mine if index in theirs]
    if not shared:
        return PairedTest(first=first, second=second, not_compared=f"no example in common (n {a.n} and n {b.n})")
    clean, robust = ([(mine[i][what], theirs[i][what]) for i in shared] for what in (0, 1))
    return PairedTest(first=first, second=second, n=len(shared), robust=_difference(robust), clean=_difference(clean))


def stood(outcomes: Iterable[Outcome]) -> dict[int, tuple[bool, bool]]:
    """Which examples are classified correctly, and which of them whatever the attacks made of them."""
    return {one.index: (one.broken_by != "clean", one.broken_by is None) for one in outcomes}


def _unlike(a: _Asked, b: _Asked) -> list[str]:
    """How the questions differ; robust accuracies are comparable only where they are equal."""
    reasons = [] if _same_threat(a.threat, b.threat) else [f"threat {_against(a.threat, b.threat)}"]
    for name, one, other in (("suite", a.suite, b.suite), ("budget", a.budget, b.budget)):
        reasons += [] if one == other else [f"{name} {clean(one)} against {clean(other)}"]
    return reasons


def _same_threat(a: Threat, b: Threat) -> bool:
    return (a.norm, a.box) == (b.norm, b.box) and math.isclose(a.eps, b.eps, rel_tol=_ROUNDING)


def _against(a: Threat, b: Threat) -> str:
    """Two threat models in words, with their radii in full where these do not tell them apart."""
    one, other = threat_text(a), threat_text(b)
    return f"{one} against {other}" if one != other else f"{one} (eps {a.eps!r}) against {other} (eps {b.eps!r})"


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
        robustly = pair.robust and pair.robust.model_copy(update={"adjusted_p_value": next(robust)})
        cleanly = pair.clean and pair.clean.model_copy(update={"adjusted_p_value": next(standard)})
        return pair.model_copy(update={"robust": robustly, "clean": cleanly})

    return [one(pair) for pair in pairs]


def same_attacks(a: EvaluationRecord, b: EvaluationRecord) -> bool:
    """Whether both met the same attacks with the same settings, those that ran by themselves among them."""
    return attacks_met(a) == attacks_met(b)


def attacks_met(record: EvaluationRecord) -> list[tuple[str, str, dict[str, Any]]]:
    """Group, name and settings of every attack."""
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
