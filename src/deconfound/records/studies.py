"""Records of studies: every run of a study with what it withstood, and each method against its control."""

from __future__ import annotations

from typing import Any, ClassVar, Self

from pydantic import model_validator

from deconfound.errors import require
from deconfound.records.analysis import Accuracy
from deconfound.records.base import Interval, Machine, Record, Threat, VersionedRecord
from deconfound.records.examples import StudyExamples
from deconfound.records.runs import ColumnResult, PairedTest, StageUse, Verdict, union_beyond


def _require_digests(digests: dict[str, str], *names: str) -> None:
    lacking = [name for name in names if name not in digests]
    require(not lacking, "digests", sorted(digests), f"a digest of {', '.join(lacking)} too")


class StudyResult(Record):
    """What one run withstood under one judgement; more on its examples is in the record of the evaluation.

    Attributes:
        judgement: the name of the judgement, and of the evaluation's file.
        question: the judgement without its n; results that answer the same question stand in one column.
        survivors: how many examples each attack of the suite left, in order.
        undeclared: the accuracy under those attacks of the suite that the defence does not declare against itself,
            where it declares any: under the suite ``adaptive`` on a deterministic model that under ``standard``.
        columns: attackers that ran by themselves, without their settings. Those of other norms and beyond norms say
            which examples they left, all corruptions together in a column of their own, ``corruptions``.
        deviation: of the robust accuracy over the seeds of a random judge.
        verdict: with the checks that failed, and no others.
        digests: of the model and of the data, as the evaluation states them, and of the attacks with their settings.
        examples: which stood, under attackers beyond the threat model (suite ``unseen``) against those alone; None in
            records of before there was this field.
    """

    judgement: str
    question: str
    suite: str
    budget: str
    threat: Threat
    n: int
    seed: int
    clean_accuracy: float
    clean_interval: Interval
    robust_accuracy: float
    robust_interval: Interval
    survivors: dict[str, int] = {}
    undeclared: Accuracy | None = None
    columns: tuple[ColumnResult, ...] = ()
    deviation: float | None = None
    verdict: Verdict
    surrogate: str
    seconds: float
    digests: dict[str, str]
    examples: StudyExamples | None = None
    machine: Machine

    @model_validator(mode="after")
    def _says_of_what(self) -> Self:
        _require_digests(self.digests, "model", "data", *([] if self.examples is None else ["attacks"]))
        if self.examples is not None:
            require(self.examples.count == self.n, "examples", self.examples.indices, f"{self.n} examples, as n says")
        return self


def robust(one: StudyResult) -> tuple[float, Interval]:
    """The accuracy that answers a question, and its interval.

    Where attackers by themselves go beyond the threat model, that is what these left, whatever those inside it broke:
    the suite ``unseen`` asks about unknown attackers, and the robust accuracy is that under the known ones. Where all
    stay inside it, the two are the same; of a random judge it is the mean over the judge's seeds, as elsewhere.

    Args:
        one: answer to the question.
    """
    union = union_beyond(one.columns)
    return (one.robust_accuracy, one.robust_interval) if union is None else (union.accuracy, union.interval)


class StudyFigure(Record):
    """One number that an analysis found.

    Attributes:
        name: what it is of.
        at: what of the analysis it belongs to, such as one rho of several; empty where it belongs to the whole.
        share: whether it is a share in [0, 1], or a difference of two.
        interval: of 95 %; None where the analysis has none.
    """

    name: str
    at: str = ""
    value: float
    interval: Interval | None = None
    share: bool = False


class StudyAnalysis(Record):
    """What one analysis found in one run, in numbers; pictures and lists stay in its own record.

    Attributes:
        analysis: the name of its folder, below that of the run.
        about: kind of analysis, such as ``reliance``.
        digests: of the model and of the data, as the analysis states them.
        notes: what it says beside its figures.
    """

    analysis: str
    about: str
    n: int
    seed: int
    figures: tuple[StudyFigure, ...]
    notes: tuple[str, ...] = ()
    seconds: float
    digests: dict[str, str]
    machine: Machine

    @model_validator(mode="after")
    def _says_of_what(self) -> Self:
        _require_digests(self.digests, "model", "data")
        return self


class StudyRun(Record):
    """One method with one seed: how it was trained, everything it withstood, and what was found in it.

    Attributes:
        name: the method's name in the study; its recipe's where it has no label.
        folder: of the run, below that of the study.
        control: the name of the method that it is compared with.
        settings: the resolved recipe, without the place of the data.
        stages: the finished trainings that it builds on, each with the last part of its folder's name.
        results: one for each judgement that is done.
        analyses: one for each analysis that is done.
    """

    name: str
    recipe: str
    seed: int
    folder: str
    control: str | None = None
    data: str
    data_digest: str
    settings: dict[str, Any]
    recipe_digest: str
    epochs_run: int
    selected_epoch: int | None
    validation: dict[str, float] = {}
    parameters: int
    seconds: float
    images_per_second: float
    warnings: tuple[str, ...] = ()
    stages: dict[str, StageUse] = {}
    machine: Machine
    results: tuple[StudyResult, ...] = ()
    analyses: tuple[StudyAnalysis, ...] = ()


class StudyMean(Record):
    """A method under one question, over its training seeds: every value, the mean, and the standard deviation.

    The values stand in the order of the seeds; deviations (n - 1) are None for a single seed.
    """

    name: str
    question: str
    n: int
    seeds: tuple[int, ...]
    clean: tuple[float, ...]
    robust: tuple[float, ...]
    clean_mean: float
    robust_mean: float
    clean_deviation: float | None = None
    robust_deviation: float | None = None


class StudyTest(Record):
    """A method minus its control, trained with the same seed, on the same images.

    Attributes:
        attacker: one beyond the threat model, by itself; empty where everything counts that the question asks.
        same_attacks: whether both met the same attacks with the same settings; what each declares differs.
        test: robust and clean, with the paired interval, McNemar's p and Holm's, or why there is none.
    """

    method: str
    control: str
    question: str
    attacker: str = ""
    seed: int
    same_attacks: bool
    test: PairedTest


class StudyDifference(Record):
    """The differences of a method to its control in robust accuracy, one for each seed, their mean and deviation."""

    method: str
    control: str
    question: str
    seeds: tuple[int, ...]
    differences: tuple[float, ...]
    mean: float
    deviation: float | None = None


class StudyRecord(VersionedRecord):
    """A study: runs, means over seeds, and paired tests against controls.

    Attributes:
        definition: the study as it was defined, without the place of the data.
        tests: adjusted by Holm over all tests of one question; robust and clean accuracy apart.
        by_attacker: tests of attackers beyond the threat model one by one, of robust accuracy only; likewise adjusted.
        missing: what is defined and not done yet, or went wrong, one line each.
        commit: of the library that wrote this, where it runs from a checkout; each run and result has its own.
    """

    expected_kind: ClassVar[str] = "study"
    kind: str = "study"
    study: str
    about: str = ""
    definition: dict[str, Any]
    runs: tuple[StudyRun, ...]
    means: tuple[StudyMean, ...] = ()
    tests: tuple[StudyTest, ...] = ()
    by_attacker: tuple[StudyTest, ...] = ()
    differences: tuple[StudyDifference, ...] = ()
    missing: tuple[str, ...] = ()
    commit: str = ""
    machine: Machine
