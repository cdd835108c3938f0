"""Each method of a study beside its control: results of the two that answer the same question, seed by seed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from deconfound.recipes.study_judgements import questions_of
from deconfound.recipes.study_plan import Planned
from deconfound.records import PairedTest, StudyResult, StudyRun, StudyTest
from deconfound.records.studies import robust
from deconfound.reporting.text import listing


@dataclass(frozen=True)
class Side:
    """A run, what is known of it, and its answer to the question."""

    run: Planned
    row: StudyRun
    answer: StudyResult


@dataclass(frozen=True)
class Pair:
    """A method and its control, trained with the same seed, and what both withstood under one question."""

    question: str
    method: Side
    control: Side

    @property
    def apart(self) -> str:
        """Why the two are not tested; empty where they are."""
        mine, theirs = self.method.answer, self.control.answer
        if mine.digests["data"] != theirs.digests["data"]:
            return "other images, such as of another size"
        if stage := self._other_ground():
            return f"they build on other weights of {stage}, such as of another processor"
        if any(inside_only(one) for one in (mine, theirs)):
            return "which examples the attackers beyond the threat model leave is not recorded"
        silent = [side.run.path.name for side in (self.method, self.control) if side.answer.examples is None]
        return f"the record of {listing(silent)} does not say which examples stood" if silent else ""

    def tested(self, test: PairedTest, attacker: str = "") -> StudyTest:
        """A test of the two as the record of a study has it."""
        mine, theirs = self.method.answer.digests, self.control.answer.digests
        return StudyTest(
            method=self.method.run.name,
            control=self.control.run.name,
            question=self.question,
            attacker=attacker,
            seed=self.method.run.seed,
            same_attacks=bool(test.not_compared) or mine["attacks"] == theirs["attacks"],
            test=test,
        )

    def _other_ground(self) -> str:
        """A run of the study that both build on, or that one is, whose weights are not the same for both; or none."""
        one, other = (
            {**_grounds(side), side.run.path.name: side.answer.digests["model"]} for side in (self.method, self.control)
        )
        return next((name for name in one if other.get(name, one[name]) != one[name]), "")


def pairs(runs: Sequence[Planned], rows: Iterable[StudyRun]) -> Iterator[Pair]:
    """Every method with its control under every question that both were asked; the n may differ.

    Args:
        runs: of the study.
        rows: what is known of them.
    """
    planned = {(run.name, run.seed): run for run in runs}
    found = {(row.name, row.seed): row for row in rows}
    for run in runs:
        key, other = (run.name, run.seed), (run.control or "", run.seed)
        if key in found and other in found:
            control = planned[other]
            for question, mine, theirs in _shared((run, found[key]), (control, found[other])):
                yield Pair(question, Side(run, found[key], mine), Side(control, found[other], theirs))


def _shared(
    here: tuple[Planned, StudyRun], there: tuple[Planned, StudyRun]
) -> Iterator[tuple[str, StudyResult, StudyResult]]:
    """The judgements of the two that ask the same, and are done."""
    (run, row), (control, other) = here, there
    asked = questions_of(run.judgements)
    known, answers = ({one.judgement: one for one in one_row.results} for one_row in (row, other))
    for mine in run.judgements:
        if asked[mine.name] != mine.question:
            continue
        alike = [theirs for theirs in control.judgements if theirs.question == mine.question]
        alike.sort(key=lambda theirs: theirs.name != mine.name)
        done = [answers[theirs.name] for theirs in alike if theirs.name in answers]
        if done and mine.name in known:
            yield mine.question, known[mine.name], done[0]


def inside_only(one: StudyResult) -> bool:
    """Whether its examples are what attackers inside the threat model left, while others go beyond it: older records.

    Args:
        one: answer to a question.
    """
    left, _ = robust(one)
    if one.examples is None or left == one.robust_accuracy:
        return False
    return left != sum(stands for _, stands in one.examples.stood.values()) / one.n


def _grounds(side: Side) -> dict[str, str]:
    """The weights of each run of the study that a run builds on, where its row knows them."""
    given = {stage: how for stage, how in side.run.changes.get("stages", {}).items() if isinstance(how, str)}
    return {
        Path(how).name: side.row.stages[stage].model_digest for stage, how in given.items() if stage in side.row.stages
    }


__all__ = ["Pair", "Side", "inside_only", "pairs"]
