"""Each method of a study against its control: paired tests from the rows of a record."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from deconfound.recipes.pairing import adjusted, tested_on
from deconfound.recipes.study_judgements import questions_of
from deconfound.recipes.study_plan import Planned
from deconfound.records import PairedTest, StudyDifference, StudyRecord, StudyResult, StudyRun, StudyTest
from deconfound.records.studies import robust
from deconfound.reporting.text import listing


def against_controls(
    runs: Sequence[Planned], rows: Iterable[StudyRun], earlier: Sequence[StudyRecord]
) -> list[StudyTest]:
    """Each method against its control, seed by seed, under every question that both were asked.

    Args:
        runs: of the study.
        rows: what is known of them.
        earlier: records whose tests stand where a row does not say which examples stood.
    """
    found = {(row.name, row.seed): row for row in rows}
    sides = {key: _Side(run, found[key]) for run in runs if (key := (run.name, run.seed)) in found}
    families: dict[str, list[StudyTest]] = {}
    for side in sides.values():
        control = sides.get((side.run.control or "", side.run.seed))
        for question, mine, theirs in _shared(side, control) if control is not None else ():
            assert control is not None  # said by the line above
            known = _taken(side.run, mine, theirs, question, earlier)
            test = known or _tested(side, mine, control, theirs, question)
            families.setdefault(question, []).append(test)
    return [test for family in families.values() for test in _adjusted(family)]


@dataclass(frozen=True)
class _Side:
    """A run, and what is known of it."""

    run: Planned
    row: StudyRun

    @property
    def results(self) -> dict[str, StudyResult]:
        return {one.judgement: one for one in self.row.results}


def _shared(side: _Side, control: _Side) -> Iterator[tuple[str, StudyResult, StudyResult]]:
    """The judgements of the two that ask the same, and are done; the n may differ, then the shared images count."""
    asked, here, there = questions_of(side.run.judgements), side.results, control.results
    for mine in side.run.judgements:
        if asked[mine.name] != mine.question:
            continue
        alike = [theirs for theirs in control.run.judgements if theirs.question == mine.question]
        alike.sort(key=lambda theirs: theirs.name != mine.name)
        done = [there[theirs.name] for theirs in alike if theirs.name in there]
        if done and mine.name in here:
            yield mine.question, here[mine.name], done[0]


def _tested(side: _Side, mine: StudyResult, control: _Side, theirs: StudyResult, question: str) -> StudyTest:
    first, second = side.run.path.name, control.run.path.name
    reason = _apart(side, mine, control, theirs)
    if reason or mine.examples is None or theirs.examples is None:
        test = PairedTest(first=first, second=second, not_compared=reason)
    else:
        test = tested_on((first, mine, mine.examples.stood), (second, theirs, theirs.examples.stood))
    return StudyTest(
        method=side.run.name,
        control=control.run.name,
        question=question,
        seed=side.run.seed,
        same_attacks=bool(reason) or mine.digests["attacks"] == theirs.digests["attacks"],
        test=test,
    )


def _apart(side: _Side, mine: StudyResult, control: _Side, theirs: StudyResult) -> str:
    """Why two results are not tested; empty where they are."""
    if mine.digests["data"] != theirs.digests["data"]:
        return "other images, such as of another size"
    if stage := _other_ground(side, mine, control, theirs):
        return f"they build on other weights of {stage}, such as of another processor"
    if any(inside_only(one) for one in (mine, theirs)):
        return "which examples the attackers beyond the threat model leave is not recorded"
    silent = [one.run.path.name for one, its in ((side, mine), (control, theirs)) if its.examples is None]
    return f"the record of {listing(silent)} does not say which examples stood" if silent else ""


def inside_only(one: StudyResult) -> bool:
    """Whether its examples are what attackers inside the threat model left, while others go beyond it: older records.

    Args:
        one: answer to a question.
    """
    left, _ = robust(one)
    if one.examples is None or left == one.robust_accuracy:
        return False
    return left != sum(stands for _, stands in one.examples.stood.values()) / one.n


def _other_ground(side: _Side, mine: StudyResult, control: _Side, theirs: StudyResult) -> str:
    """A run of the study that both build on, or that one is, whose weights are not the same for both; or nothing."""
    one, other = (
        {**_grounds(at), at.run.path.name: its.digests["model"]} for at, its in ((side, mine), (control, theirs))
    )
    return next((name for name in one if other.get(name, one[name]) != one[name]), "")


def _grounds(side: _Side) -> dict[str, str]:
    """The weights of each run of the study that a run builds on, where its row knows them."""
    given = {stage: how for stage, how in side.run.changes.get("stages", {}).items() if isinstance(how, str)}
    return {
        Path(how).name: side.row.stages[stage].model_digest for stage, how in given.items() if stage in side.row.stages
    }


def _taken(
    run: Planned, mine: StudyResult, theirs: StudyResult, question: str, earlier: Iterable[StudyRecord]
) -> StudyTest | None:
    """The test that an earlier record has of the very same two results, where they do not say which examples stood."""
    if mine.examples is not None and theirs.examples is not None:
        return None
    for record in earlier:
        rows = [row for row in record.runs if row.seed == run.seed]
        has = {(row.name, one.judgement, _identity(one)) for row in rows for one in row.results}
        for test in record.tests:
            same = (test.method, test.control, test.question, test.seed) == (run.name, run.control, question, run.seed)
            both = ((test.method, mine), (test.control, theirs))
            if same and all((name, one.judgement, _identity(one)) in has for name, one in both):
                return test
    return None


def _identity(one: StudyResult) -> tuple[str, str, int, float, float]:
    return one.digests["model"], one.digests["data"], one.n, one.clean_accuracy, one.robust_accuracy


def _adjusted(family: Sequence[StudyTest]) -> list[StudyTest]:
    pairs = adjusted([one.test for one in family])
    return [one.model_copy(update={"test": pair}) for one, pair in zip(family, pairs, strict=True)]


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


__all__ = ["against_controls", "differences", "inside_only"]
