"""What records of a study made elsewhere have of its runs, and whether they are of this study."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from deconfound.errors import InputError, require
from deconfound.recipes.resolve import read_spec, resolve
from deconfound.recipes.schema import differences, validated
from deconfound.recipes.study_file import said_at
from deconfound.recipes.study_plan import Planned, at_hand
from deconfound.recipes.study_rows import check_asked, check_equal, rows_of
from deconfound.recipes.study_shelf import Shelf
from deconfound.records import StudyRecord, StudyRun, TrainingRecord

FIELD = "earlier"


def read_earlier(files: str | Path | Iterable[str | Path]) -> list[StudyRecord]:
    """Records of studies, in this order.

    Raises:
        InputError: a file that is none.
    """
    records = []
    for file in (files,) if isinstance(files, str | Path) else files:
        with said_at(FIELD):
            records.append(StudyRecord.read(file))
    return records


def with_earlier(
    runs: Sequence[Planned], records: Sequence[StudyRecord], shelf: Shelf, needed: Collection[Path] = ()
) -> tuple[Planned, ...]:
    """The runs, each with what records have of it.

    Args:
        runs: of the study.
        records: of earlier calls of it elsewhere, or of studies that share runs with it.
        shelf: of the data.
        needed: folders of runs whose data are to be read wherever they are; of others those that need no download.

    Raises:
        InputError: a record without any run of the study; one whose run was trained with other settings or data, or
            judged by another question than its name says.
    """
    for record in records:
        shared = {(row.name, row.seed) for row in record.runs} & {(run.name, run.seed) for run in runs}
        require(bool(shared), FIELD, record.study, "a record that has runs of this study, by name and seed")
    rows = [row for record in records for row in record.runs]
    found = tuple(replace(run, recorded=rows_of(run.name, run.seed, rows)) for run in runs)
    for run in found:
        for row in run.recorded:
            _check(row, run, shelf if run.path in needed or at_hand(run.data) else None)
    _check_agree(found)
    return found


def _check(row: StudyRun, run: Planned, shelf: Shelf | None) -> None:
    """A row is this run, and its results answer what the study asks; data are compared where they are at hand."""
    here = f"{FIELD}: {row.folder}"
    with said_at(here):
        before = validated(row.settings | {"data": run.data}, here)
    wanted = resolve(read_spec(run.recipe), data=run.data, family=before.family, changes=run.changes)
    if other := differences(before, wanted):
        raise InputError(here, other[0], f"the recipe of the study: {other[1]}")
    facts = None if shelf is None else shelf.facts(run)[0]
    if facts is not None:
        rule = f"a run on the study's data, {run.data}; the content differs"
        require(row.data_digest == facts.train, f"{here}: data", row.data, rule)
    judgements = {one.name: one for one in run.judgements}
    for result in row.results:
        if judgement := judgements.get(result.judgement):
            place = f"{here}: {judgement.name}"
            check_asked(result, judgement, wanted, place, facts=facts, stochastic=run.stochastic)
    analyses = {one.name: one for one in run.analyses}
    for look in row.analyses:
        if analysis := analyses.get(look.analysis):
            asked = {"about": (look.about, analysis.kind), "seed": (look.seed, analysis.seed)}
            asked |= {} if analysis.n is None else {"n": (look.n, analysis.n)}
            asked |= {} if facts is None else {"data_digest": (look.digests["data"], facts.test)}
            check_equal(asked, f"{here}: {analysis.name}")


def _check_agree(runs: Iterable[Planned]) -> None:
    """Runs on the same data, here and in records, were trained on the same content, also where none is at hand."""
    known: dict[tuple[str, object], str] = {}
    here = [run for run in runs if run.folder.record.is_file()]
    for run in here:
        training = TrainingRecord.read(run.folder.record)
        known.setdefault((run.data, training.recipe.get("image_size")), training.data_digest)
    for run in runs:
        for row in run.recorded:
            digest = known.setdefault((run.data, row.settings.get("image_size")), row.data_digest)
            rule = f"the content of {run.data} that the other runs of the study saw"
            require(digest == row.data_digest, f"{FIELD}: {row.folder}: data", row.data, rule)


__all__ = ["read_earlier", "with_earlier"]
