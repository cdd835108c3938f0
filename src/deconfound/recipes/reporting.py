"""The job behind ``deconfound report``: records from folders to one page."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from deconfound.errors import InputError, require
from deconfound.recipes.reading import RESULTS, files_in, records_in
from deconfound.records import SCHEMA_VERSION, EvaluationRecord, TrainingRecord
from deconfound.reporting import render
from deconfound.store import write_text

FIELD = "report"


def results_json(evaluations: Iterable[EvaluationRecord]) -> str:
    """Several evaluation records in one file."""
    records = [record.model_dump(mode="json") for record in evaluations]
    return json.dumps({"kind": RESULTS, "schema_version": SCHEMA_VERSION, "evaluations": records}, indent=1) + "\n"


def collect(places: Iterable[str | Path]) -> tuple[list[EvaluationRecord], list[TrainingRecord]]:
    """All records in some files and folders, in the order of their paths; equal records are taken once.

    Raises:
        InputError: a place that does not exist, a record of a newer schema, or no evaluation record at all.
    """
    folders = [Path(place) for place in places]
    evaluations: dict[str, EvaluationRecord] = {}
    trainings: dict[str, TrainingRecord] = {}
    for file in (file for place in folders for file in files_in(place, FIELD)):
        found = records_in(file, FIELD)
        require(found is not None or file not in folders, FIELD, str(file), "a record that deconfound wrote")
        for data in found or ():
            text = json.dumps(data)
            if data["kind"] == EvaluationRecord.expected_kind:
                evaluations.setdefault(text, EvaluationRecord.from_json(text, str(file)))
            else:
                trainings.setdefault(text, TrainingRecord.from_json(text, str(file)))
    if not evaluations:
        shown = ", ".join(str(place) for place in folders)
        raise InputError(FIELD, shown, "folders or files with at least one evaluation record (deconfound evaluate)")
    return list(evaluations.values()), list(trainings.values())


def write_report(places: Iterable[str | Path], out: str | Path, *, overwrite: bool = False) -> Path:
    """Render the records of some places to one self-contained page.

    Raises:
        InputError: nothing to report, or a page that is there already.
    """
    out = Path(out)
    require(not out.is_dir(), "out", str(out), "a file; a folder lies here")
    require(overwrite or not out.exists(), "out", str(out), "a new file; one lies here (--overwrite replaces it)")
    evaluations, trainings = collect(places)
    write_text(out, render(evaluations, trainings))
    return out
