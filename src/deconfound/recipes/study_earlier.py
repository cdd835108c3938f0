"""What records of a study made elsewhere have of its runs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from deconfound.errors import InputError, require
from deconfound.recipes.resolve import read_spec, resolve
from deconfound.recipes.schema import differences, validated
from deconfound.recipes.study_file import said_at
from deconfound.recipes.study_plan import Planned
from deconfound.recipes.study_shelf import Shelf
from deconfound.records import StudyRecord, StudyRun

FIELD = "earlier"


def read_earlier(files: Iterable[str | Path]) -> list[StudyRecord]:
    """Records of studies, in this order.

    Raises:
        InputError: a file that is none.
    """
    records = []
    for file in files:
        with said_at(FIELD):
            records.append(StudyRecord.read(file))
    return records


def with_earlier(
    runs: Sequence[Planned], records: Sequence[StudyRecord], shelf: Shelf | None = None
) -> tuple[Planned, ...]:
    """The runs, each with what the first record that has it knows, and what later ones add about the same weights.

    Args:
        runs: of the study.
        records: of earlier calls of it elsewhere, or of studies that share runs with it.
        shelf: of the data; None compares no data.

    Raises:
        InputError: a record without any run of the study, or one whose run was trained with other settings or data.
    """
    for record in records:
        shared = {(row.name, row.seed) for row in record.runs} & {(run.name, run.seed) for run in runs}
        require(bool(shared), FIELD, record.study, "a record that has runs of this study, by name and seed")
    return tuple(_with_rows(run, records, shelf) for run in runs)


def _with_rows(run: Planned, records: Iterable[StudyRecord], shelf: Shelf | None) -> Planned:
    rows = [row for record in records for row in record.runs if (row.name, row.seed) == (run.name, run.seed)]
    for row in rows:
        _check(row, run, shelf)
    return replace(run, recorded=_joined(rows)) if rows else run


def _check(row: StudyRun, run: Planned, shelf: Shelf | None) -> None:
    """A row is this run: the same settings, and the same training data where they are at hand."""
    here = f"{FIELD}: {row.folder}"
    with said_at(here):
        before = validated(row.settings | {"data": run.data}, here)
    wanted = resolve(read_spec(run.recipe), data=run.data, family=before.family, changes=run.changes)
    if other := differences(before, wanted):
        raise InputError(here, other[0], f"the recipe of the study: {other[1]}")
    if shelf is not None:
        same = shelf.facts(run)[0].train == row.data_digest
        require(same, f"{here}: data", row.data, f"a run on the study's data, {run.data}; the content differs")


def _joined(rows: Sequence[StudyRun]) -> StudyRun:
    """One row of several of a run; results of other weights than the first results are about are left out."""
    first = next((row for row in rows if row.results or row.analyses), rows[0])
    digests = {*(one.digests["model"] for one in first.results), *(one.digests["model"] for one in first.analyses)}
    results = {one.judgement: one for row in rows[::-1] for one in row.results if one.digests["model"] in digests}
    analyses = {one.analysis: one for row in rows[::-1] for one in row.analyses if one.digests["model"] in digests}
    return first.model_copy(update={"results": tuple(results.values()), "analyses": tuple(analyses.values())})


def check_agree(rows: Iterable[StudyRun]) -> None:
    """Rows trained on data of one name were trained on the same content.

    Raises:
        InputError: two that were not.
    """
    known: dict[tuple[str, object], str] = {}
    for row in rows:
        digest = known.setdefault((row.data, row.settings.get("image_size")), row.data_digest)
        rule = "the same content for all runs of the study; a record of other data is not of this study"
        require(digest == row.data_digest, f"{FIELD}: {row.folder}: data", row.data, rule)


__all__ = ["check_agree", "read_earlier", "with_earlier"]
