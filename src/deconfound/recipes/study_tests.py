"""Each method of a study against its control: paired tests from the rows of a record."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence

from deconfound.recipes.pairing import adjusted, tested_on
from deconfound.recipes.study_pairs import Pair, pairs
from deconfound.recipes.study_plan import Planned
from deconfound.records import PairedTest, StudyDifference, StudyRecord, StudyResult, StudyRun, StudyTest
from deconfound.records.beyond import beyond, left_by


def against_controls(
    runs: Sequence[Planned], rows: Iterable[StudyRun], earlier: Sequence[StudyRecord]
) -> list[StudyTest]:
    """Each method against its control, seed by seed, under every question that both were asked.

    Args:
        runs: of the study.
        rows: what is known of them.
        earlier: records whose tests stand where a row does not say which examples stood.
    """
    return by_question(_taken(pair, earlier) or _tested(pair) for pair in pairs(runs, rows))


def by_attacker(runs: Sequence[Planned], rows: Iterable[StudyRun]) -> list[StudyTest]:
    """The same under each attacker beyond the threat model by itself, where what it left of each example is known.

    Robust accuracy only, adjusted by Holm over all attackers of one question.

    Args:
        runs: of the study.
        rows: what is known of them.
    """
    return by_question(test for pair in pairs(runs, rows) if not pair.apart for test in _each(pair))


def _tested(pair: Pair) -> StudyTest:
    (first, mine), (second, theirs) = ((side.run.path.name, side.answer) for side in (pair.method, pair.control))
    reason = pair.apart
    if reason or mine.examples is None or theirs.examples is None:
        return pair.tested(PairedTest(first=first, second=second, not_compared=reason))
    return pair.tested(tested_on((first, mine, mine.examples.stood), (second, theirs, theirs.examples.stood)))


def _each(pair: Pair) -> Iterable[StudyTest]:
    (first, mine), (second, theirs) = ((side.run.path.name, side.answer) for side in (pair.method, pair.control))
    left, other = ({one.name: left_by(one, answer) for one in beyond(answer)} for answer in (mine, theirs))
    for attacker, stood in left.items():
        if stood and other.get(attacker):
            test = tested_on((first, mine, stood), (second, theirs, other[attacker]))
            yield pair.tested(test.model_copy(update={"clean": None}), attacker)


def _taken(pair: Pair, earlier: Iterable[StudyRecord]) -> StudyTest | None:
    """The test that an earlier record has of the very same two results, where they do not say which examples stood."""
    mine, theirs = pair.method.answer, pair.control.answer
    if mine.examples is not None and theirs.examples is not None:
        return None
    asked = (pair.method.run.name, pair.control.run.name, pair.question, pair.method.run.seed)
    for record in earlier:
        rows = [row for row in record.runs if row.seed == pair.method.run.seed]
        has = {(row.name, one.judgement, _identity(one)) for row in rows for one in row.results}
        for test in record.tests:
            same = (test.method, test.control, test.question, test.seed) == asked
            both = ((test.method, mine), (test.control, theirs))
            if same and all((name, one.judgement, _identity(one)) in has for name, one in both):
                return test
    return None


def _identity(one: StudyResult) -> tuple[str, str, int, float, float]:
    return one.digests["model"], one.digests["data"], one.n, one.clean_accuracy, one.robust_accuracy


def by_question(tests: Iterable[StudyTest]) -> list[StudyTest]:
    """Tests adjusted by Holm over all of one question; questions in the order in which they come first.

    Args:
        tests: of one study, unadjusted.
    """
    families: dict[str, list[StudyTest]] = {}
    for test in tests:
        families.setdefault(test.question, []).append(test)
    return [
        one.model_copy(update={"test": pair})
        for family in families.values()
        for one, pair in zip(family, adjusted([one.test for one in family]), strict=True)
    ]


def differences(tests: Iterable[StudyTest]) -> list[StudyDifference]:
    """The differences in robust accuracy of each method over its seeds."""
    groups: dict[tuple[str, str, str], list[tuple[int, float]]] = {}
    for one in tests:
        if one.test.robust is not None:
            key = (one.method, one.control, one.question)
            groups.setdefault(key, []).append((one.seed, one.test.robust.difference))
    return [_difference(key, members) for key, members in groups.items()]


def _difference(key: tuple[str, str, str], members: Sequence[tuple[int, float]]) -> StudyDifference:
    values = [value for _, value in members]
    method, control, question = key
    return StudyDifference(
        method=method,
        control=control,
        question=question,
        seeds=tuple(seed for seed, _ in members),
        differences=tuple(values),
        mean=statistics.fmean(values),
        deviation=statistics.stdev(values) if len(values) > 1 else None,
    )


__all__ = ["against_controls", "by_attacker", "by_question", "differences"]
