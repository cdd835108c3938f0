"""From the records in a study's folders to the record of the study: results, means, tests against controls."""

from __future__ import annotations

import hashlib
import json
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deconfound.data.naming import without_place
from deconfound.functional.statistics import wilson_interval
from deconfound.recipes.machine import commit, describe
from deconfound.recipes.pairing import attacks_met, stood
from deconfound.recipes.schema import GIVEN
from deconfound.recipes.study_analyses import read_record
from deconfound.recipes.study_columns import study_columns
from deconfound.recipes.study_figures import analysis_result
from deconfound.recipes.study_file import Study
from deconfound.recipes.study_judgements import Judgement, questions_of
from deconfound.recipes.study_plan import Planned, Status, kept
from deconfound.recipes.study_tests import against_controls, by_attacker, differences
from deconfound.records import (
    Accuracy,
    AnalysisRecord,
    EvaluationRecord,
    StudyAnalysis,
    StudyExamples,
    StudyMean,
    StudyRecord,
    StudyResult,
    StudyRun,
    TrainingRecord,
)
from deconfound.records.examples import unpacked_bits
from deconfound.records.runs import union_beyond


@dataclass(frozen=True)
class Collected:
    """The record of a study, and the records that it was made from; evaluations without their examples."""

    record: StudyRecord
    evaluations: list[EvaluationRecord]
    trainings: list[TrainingRecord]
    analyses: list[AnalysisRecord]


def collected(
    study: Study,
    runs: Sequence[Planned],
    status: Sequence[Status],
    failures: Sequence[str] = (),
    earlier: Sequence[StudyRecord] = (),
) -> Collected:
    """Everything that is done of a study, here or in earlier records.

    Args:
        study: as defined.
        runs: all of it.
        status: how far each run is.
        failures: of this call, one line each.
        earlier: records that runs know from elsewhere, for their tests.
    """
    evaluations: list[EvaluationRecord] = []
    trainings: list[TrainingRecord] = []
    analyses: list[AnalysisRecord] = []
    found: list[StudyRun] = []
    for run in runs:
        if not run.folder.record.is_file():
            row = kept(run)
            found += [] if row is None else [_completed(run, row)]
            continue
        training = TrainingRecord.read(run.folder.record)
        results, asked = [], questions_of(run.judgements)
        for judgement in run.judgements:
            if run.record(judgement).is_file():
                evaluation = EvaluationRecord.read(run.record(judgement))
                results.append(result(judgement, evaluation, asked[judgement.name]))
                evaluations.append(evaluation.model_copy(update={"outcomes": ()}))
        looks = {one: read_record(one, file) for one in run.analyses if (file := one.record(run.path)).is_file()}
        analyses += looks.values()
        trainings.append(training)
        row = run_of(run, training, results, [analysis_result(one, made) for one, made in looks.items()])
        found.append(_completed(run, row))
    tests = tuple(against_controls(runs, found, earlier))
    record = StudyRecord(
        study=study.study,
        about=study.about,
        definition=_definition(study),
        runs=tuple(found),
        means=tuple(means(found)),
        tests=tests,
        by_attacker=tuple(by_attacker(runs, found)),
        differences=tuple(differences(tests)),
        missing=(*failures, *(one.progress for one in status if not one.complete)),
        commit=commit(),
        machine=describe(),
    )
    return Collected(record, evaluations, trainings, analyses)


def _completed(run: Planned, row: StudyRun) -> StudyRun:
    """A row with everything that the study asks of it, in its order: what lies here, then what earlier records have."""
    before, asked = kept(run), questions_of(run.judgements)
    results = {one.judgement: one for one in (*(before.results if before else ()), *row.results)}
    looks = {one.analysis: one for one in (*(before.analyses if before else ()), *row.analyses)}
    return row.model_copy(
        update={
            "folder": run.path.name,
            "control": run.control,
            "results": tuple(
                results[name].model_copy(update={"question": question})
                for name, question in asked.items()
                if name in results
            ),
            "analyses": tuple(looks[one.name] for one in run.analyses if one.name in looks),
        }
    )


def _definition(study: Study) -> dict[str, Any]:
    """The study as plain data, without the places of data."""
    plain = study.model_dump(mode="json", exclude_defaults=True)
    for part in (plain, *plain["runs"]):
        part |= {"data": _named(part["data"])} if "data" in part else {}
    return dict(plain)


def _named(data: str | dict[str, str]) -> str | dict[str, str]:
    return without_place(data) if isinstance(data, str) else {key: without_place(one) for key, one in data.items()}


def run_of(
    run: Planned, training: TrainingRecord, results: Iterable[StudyResult], analyses: Iterable[StudyAnalysis] = ()
) -> StudyRun:
    """A run of the study from the record of its training."""
    return StudyRun(
        name=run.name,
        recipe=str(training.recipe.get("recipe", run.recipe)),
        seed=run.seed,
        folder=run.path.name,
        control=run.control,
        data=training.data,
        data_digest=training.data_digest,
        settings=_settings(training),
        recipe_digest=training.recipe_digest,
        epochs_run=training.epochs_run,
        selected_epoch=training.selected_epoch,
        validation=training.validation,
        parameters=training.parameters,
        seconds=training.seconds,
        images_per_second=training.images_per_second,
        warnings=training.warnings,
        stages={name: used.model_copy(update={"run": Path(used.run).name}) for name, used in training.stages.items()},
        machine=training.machine,
        results=tuple(results),
        analyses=tuple(analyses),
    )


def _settings(training: TrainingRecord) -> dict[str, Any]:
    """The recipe without the places of data and of finished runs."""
    found = {key: value for key, value in training.recipe.items() if key != "data"}
    stages = found.get("stages") or {}
    return found | {"stages": {name: GIVEN if isinstance(how, str) else how for name, how in stages.items()}}


def result(judgement: Judgement, record: EvaluationRecord, question: str | None = None) -> StudyResult:
    """One evaluation without its examples; it answers the judgement's question where none is given."""
    failed = tuple(check for check in record.verdict.checks if check.passed is False)
    return StudyResult(
        judgement=judgement.name,
        question=question or judgement.question,
        suite=record.suite,
        budget=record.budget,
        threat=record.threat,
        n=record.n,
        seed=record.seed,
        clean_accuracy=record.clean_accuracy,
        clean_interval=record.clean_interval,
        robust_accuracy=record.robust_accuracy,
        robust_interval=record.robust_interval,
        survivors={attack.name: attack.survivors for attack in record.attacks},
        undeclared=undeclared(record),
        columns=study_columns(record),
        deviation=None if record.spread is None else record.spread.robust_deviation,
        verdict=record.verdict.model_copy(update={"checks": failed}),
        surrogate=record.surrogate,
        seconds=record.seconds,
        digests={"model": record.model_digest, "data": record.data_digest, "attacks": _digest(attacks_met(record))},
        examples=StudyExamples.packed(_standing(record)),
        machine=record.machine,
    )


def _standing(record: EvaluationRecord) -> dict[int, tuple[bool, bool]]:
    """Which examples are right when clean, and which stood.

    Where attackers go beyond the threat model these are what they left, whatever those inside it broke: the
    same examples as in ``records.studies.robust``.
    """
    within, union = stood(record.outcomes), union_beyond(record.columns)
    if union is None or not union.stands:
        return within
    stands = unpacked_bits(union.stands, record.n)
    return {index: (right, left) for (index, (right, _)), left in zip(within.items(), stands, strict=True)}


def _digest(plain: object) -> str:
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


def undeclared(record: EvaluationRecord) -> Accuracy | None:
    """What the attacks before the first declared one left; None where the defence declares none."""
    declared = {attack.name for attack in record.attacks if attack.settings.get("declared")}
    if not declared:
        return None
    left = sum(outcome.broken_by is None or outcome.broken_by in declared for outcome in record.outcomes)
    return Accuracy(share=left / record.n, interval=wilson_interval(left, record.n))


def means(runs: Sequence[StudyRun]) -> list[StudyMean]:
    """Each method under each judgement, over all its seeds; judgements that asked different things stay apart."""
    groups: dict[tuple[Any, ...], list[tuple[int, StudyResult]]] = {}
    for run in runs:
        for one in run.results:
            asked = (one.threat.norm, one.threat.eps, one.digests["data"], one.judgement)
            groups.setdefault((run.name, one.question, one.n, *asked), []).append((run.seed, one))
    return [_mean(key[0], key[1], key[2], members) for key, members in groups.items()]


def _mean(name: str, question: str, n: int, members: Sequence[tuple[int, StudyResult]]) -> StudyMean:
    clean, robust = ([getattr(one, f"{what}_accuracy") for _, one in members] for what in ("clean", "robust"))
    return StudyMean(
        name=name,
        question=question,
        n=n,
        seeds=tuple(seed for seed, _ in members),
        clean=tuple(clean),
        robust=tuple(robust),
        clean_mean=statistics.fmean(clean),
        robust_mean=statistics.fmean(robust),
        clean_deviation=_deviation(clean),
        robust_deviation=_deviation(robust),
    )


def _deviation(values: Sequence[float]) -> float | None:
    return statistics.stdev(values) if len(values) > 1 else None


__all__ = ["Collected", "collected", "means", "result", "run_of", "undeclared"]
