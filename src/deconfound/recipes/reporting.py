"""The job behind ``deconfound report``: records from folders to one page."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deconfound.errors import InputError, require
from deconfound.recipes.reading import RESULTS, files_in, records_in
from deconfound.records import (
    ANALYSES,
    SCHEMA_VERSION,
    AnalysisRecord,
    EvaluationRecord,
    TrainingRecord,
    VersionedRecord,
)
from deconfound.reporting import render
from deconfound.store import write_text

FIELD = "report"
_KINDS: Mapping[str, type[VersionedRecord]] = {
    EvaluationRecord.expected_kind: EvaluationRecord,
    TrainingRecord.expected_kind: TrainingRecord,
    **ANALYSES,
}


def results_json(
    evaluations: Iterable[EvaluationRecord], analyses: Iterable[AnalysisRecord] = (), learned: Iterable[str] = ()
) -> str:
    """Several evaluation records in one file, with analyses and what was learned from them."""
    data: dict[str, Any] = {"kind": RESULTS, "schema_version": SCHEMA_VERSION, "learned": list(learned)}
    data["evaluations"] = [record.model_dump(mode="json") for record in evaluations]
    data["analyses"] = [record.model_dump(mode="json") for record in analyses]
    return json.dumps(data, indent=1) + "\n"


@dataclass(frozen=True)
class Collected:
    """All records in some places, in the order of their paths."""

    evaluations: list[EvaluationRecord]
    trainings: list[TrainingRecord]
    analyses: list[AnalysisRecord]


def collect(places: Iterable[str | Path]) -> Collected:
    """All records in some files and folders, in the order of their paths; equal records are taken once.

    Raises:
        InputError: a place that does not exist, a record of a newer schema, or no evaluation record at all.
    """
    folders = [Path(place) for place in places]
    collected: dict[str, VersionedRecord] = {}
    for file in (file for place in folders for file in files_in(place, FIELD)):
        found = records_in(file, FIELD)
        require(found is not None or file not in folders, FIELD, str(file), "a record that deconfound wrote")
        for data in found or ():
            text = json.dumps(data)
            if text not in collected:
                collected[text] = _KINDS[data["kind"]].from_json(text, str(file))
    evaluations = [record for record in collected.values() if isinstance(record, EvaluationRecord)]
    if not evaluations:
        shown = ", ".join(str(place) for place in folders)
        raise InputError(FIELD, shown, "folders or files with at least one evaluation record (deconfound evaluate)")
    trainings = [record for record in collected.values() if isinstance(record, TrainingRecord)]
    analyses = [record for record in collected.values() if isinstance(record, AnalysisRecord)]
    return Collected(evaluations, trainings, analyses)


def write_report(places: Iterable[str | Path], out: str | Path, *, overwrite: bool = False) -> Path:
    """Render the records of some places to one self-contained page.

    Raises:
        InputError: nothing to report, or a page that is there already.
    """
    out = Path(out)
    require(not out.is_dir(), "out", str(out), "a file; a folder lies here")
    require(overwrite or not out.exists(), "out", str(out), "a new file; one lies here (--overwrite replaces it)")
    found = collect(places)
    write_text(out, render(found.evaluations, found.trainings, analyses=found.analyses))
    return out
