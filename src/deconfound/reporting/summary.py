"""A summary in words, made from the records alone: what was tested, what held, what to distrust."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

from deconfound.records import EvaluationRecord, TrainingRecord
from deconfound.reporting.strength import accuracy_text, cautions
from deconfound.reporting.text import (
    clean,
    count,
    duration,
    labels,
    listing,
    percent,
    shortened,
    suite_text,
    threat_text,
    training_labels,
    verdict_text,
)

# A 95 % Wilson interval is at most ten points wide, whatever the share, from n = 381 on.
WIDE = 0.10


@dataclass(frozen=True)
class Summary:
    """Sentences for the head of a report."""

    tested: tuple[str, ...]
    held: tuple[str, ...]
    distrust: tuple[str, ...]


def summarise(evaluations: Sequence[EvaluationRecord], trainings: Sequence[TrainingRecord] = ()) -> Summary:
    """The summary of at least one evaluation; accuracies are ranked only where the same question was asked."""
    names = shortened(labels(evaluations), 48)
    tested = [_tested(evaluations)]
    if trainings:
        seconds = sum(training.seconds for training in trainings)
        tested.append(f"The records of {count(len(trainings), 'training')} are with them, {duration(seconds)} in all.")
    held = [_group_result([(names[i], evaluations[i]) for i in places]) for places in groups(evaluations)]
    distrust = [
        *_incomparable(evaluations),
        *(line for name, record in zip(names, evaluations, strict=True) for line in _verdict_doubts(name, record)),
        *_shared_doubts(names, evaluations),
        *(
            f"Training {name}: {clean(warning)}."
            for name, training in zip(training_labels(trainings), trainings, strict=True)
            for warning in training.warnings
        ),
    ]
    return Summary(tuple(tested), tuple(held), tuple(distrust))


def question(record: EvaluationRecord) -> Hashable:
    """What was asked; two accuracies may be ranked only where this is equal."""
    threat = record.threat
    asked = (record.data, record.data_digest, threat.norm, threat.eps, threat.box, record.suite, record.budget)
    return (*asked, record.n, record.seed)


def groups(evaluations: Sequence[EvaluationRecord]) -> list[list[int]]:
    """Places of evaluations that asked the same question, in order of appearance."""
    found: dict[Hashable, list[int]] = {}
    for place, record in enumerate(evaluations):
        found.setdefault(question(record), []).append(place)
    return list(found.values())


def _tested(evaluations: Sequence[EvaluationRecord]) -> str:
    def all_of(text: Callable[[EvaluationRecord], str]) -> str:
        return listing(list(dict.fromkeys(text(record) for record in evaluations)))

    return (
        f"{count(len(evaluations), 'evaluation')} on {all_of(lambda r: clean(r.data))}"
        f" ({all_of(lambda r: count(len(r.class_names), 'class', 'classes'))})"
        f" against {all_of(lambda r: threat_text(r.threat))},"
        f" suite {all_of(suite_text)}, n = {all_of(lambda r: str(r.n))}, seed {all_of(lambda r: str(r.seed))}."
    )


def _group_result(members: Sequence[tuple[str, EvaluationRecord]]) -> str:
    record = members[0][1]
    where = f"On {clean(record.data)} under {threat_text(record.threat)} (suite {suite_text(record)}, n = {record.n})"
    trusted = [member for member in members if member[1].verdict.reliable and math.isfinite(member[1].robust_accuracy)]
    if not trusted:
        return f"{where} no result can be relied on."
    name, best = max(trusted, key=lambda member: member[1].robust_accuracy)
    text = (
        f"{where} {name} keeps {accuracy_text(best, robust=True, gap=' ')} of"
        f" {percent(best.clean_accuracy)} clean accuracy, verdict reliable"
    )
    if len(trusted) == 1:
        return f"{text}; it is the only reliable result there."
    rivals = [
        other for other, record in trusted if other != name and record.robust_interval[1] >= best.robust_interval[0]
    ]
    if not rivals:
        return f"{text}: the highest of {count(len(trusted), 'reliable result')}, clear of the others' intervals."
    return (
        f"{text}: the highest of {count(len(trusted), 'reliable result')}. Its interval overlaps that of"
        f" {_few(rivals)}, so the order among them is open; a paired test on the same images can settle it."
    )


def _incomparable(evaluations: Sequence[EvaluationRecord]) -> list[str]:
    aspects: list[tuple[str, Callable[[EvaluationRecord], str]]] = [
        ("data", lambda r: clean(r.data)),
        ("threats", lambda r: threat_text(r.threat)),
        ("suites", lambda r: clean(r.suite)),
        ("budgets", lambda r: clean(r.budget)),
        ("numbers of images", lambda r: f"n = {r.n}"),
        ("seeds", lambda r: str(r.seed)),
    ]
    differing = []
    for name, text in aspects:
        values = list(dict.fromkeys(text(record) for record in evaluations))
        if len(values) > 1:
            differing.append(f"{name} ({_few(values)})")
    lines = [f"Not every pair of results is comparable: they differ in {listing(differing)}."] if differing else []
    digests = {record.data_digest for record in evaluations if record.data == evaluations[0].data}
    if len({record.data for record in evaluations}) == 1 and len(digests) > 1:
        lines.append("Not comparable: the data have the same name but not the same content.")
    return lines


def _verdict_doubts(name: str, record: EvaluationRecord) -> list[str]:
    lines = []
    if not record.verdict.reliable:
        lines.append(f"{name}: {percent(record.robust_accuracy)} is {verdict_text(record.verdict)}.")
    if record.robust_accuracy > record.clean_accuracy:
        lines.append(f"{name}: robust accuracy above clean accuracy is impossible; the record is inconsistent.")
    if not (math.isfinite(record.robust_accuracy) and math.isfinite(record.clean_accuracy)):
        lines.append(f"{name}: an accuracy is not a number.")
    return lines


def _shared_doubts(names: Sequence[str], evaluations: Sequence[EvaluationRecord]) -> list[str]:
    pairs = list(zip(names, evaluations, strict=True))
    lines = []
    if bare := [name for name, record in pairs if not record.verdict.checks]:
        lines.append(f"No check of trust was recorded for {_few(bare)}.")
    weak: dict[tuple[str, str], list[str]] = {}
    for name, record in pairs:
        for caution in cautions(record):
            weak.setdefault(caution, []).append(name)
    lines += [f"{before} {_few(of, len(evaluations))}: {after}." for (before, after), of in weak.items()]
    missing: dict[str, list[str]] = {}
    for name, record in pairs:
        if skipped := [clean(check.name) for check in record.verdict.checks if check.passed is None]:
            missing.setdefault(listing(skipped), []).append(name)
    for checks, of in missing.items():
        lines.append(f"Not checked: {checks} ({_few(of, len(evaluations))}).")
    if wide := [(n, r) for n, r in pairs if not r.robust_interval[1] - r.robust_interval[0] <= WIDE]:
        least = min(record.n for _, record in wide)
        lines.append(
            f"Few images: the interval is wider than {100 * WIDE:.0f} points for"
            f" {_few([name for name, _ in wide], len(evaluations))} (n from {least})."
        )
    return lines


def _few(names: Sequence[str], everything: int = 0) -> str:
    """The names, or how many they are where listing them would bury the sentence."""
    if everything > 1 and len(names) == everything:
        return "all evaluations"
    return listing(names) if len(names) <= 5 else f"{listing([*names[:4], f'{len(names) - 4} more'])}"


__all__ = ["WIDE", "Summary", "groups", "question", "summarise"]
