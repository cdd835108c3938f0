"""The job behind ``deconfound report``: records from folders to one page."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from deconfound.errors import InputError, require
from deconfound.records import SCHEMA_VERSION, EvaluationRecord, TrainingRecord
from deconfound.reporting import render
from deconfound.store import write_text

RESULTS = "results"


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
    for file in (file for place in folders for file in _files(place)):
        for data in _records(file, named=file in folders):
            text = json.dumps(data)
            if data["kind"] == EvaluationRecord.expected_kind:
                evaluations.setdefault(text, EvaluationRecord.from_json(text, str(file)))
            else:
                trainings.setdefault(text, TrainingRecord.from_json(text, str(file)))
    if not evaluations:
        shown = ", ".join(str(place) for place in folders)
        raise InputError("report", shown, "folders or files with at least one evaluation record (deconfound evaluate)")
    return list(evaluations.values()), list(trainings.values())


def _files(place: Path) -> list[Path]:
    if place.is_file():
        return [place]
    if not place.is_dir():
        raise InputError("report", str(place), "a folder or file that exists")
    return sorted(place.rglob("*.json"))


def _records(file: Path, *, named: bool) -> list[Mapping[str, Any]]:
    known = (EvaluationRecord.expected_kind, TrainingRecord.expected_kind)
    try:
        data = json.loads(file.read_bytes())
    except (ValueError, OSError):
        data = None
    kind = data.get("kind") if isinstance(data, dict) else None
    if kind == RESULTS:
        found = data.get("evaluations")
        if isinstance(found, list) and all(isinstance(part, dict) and part.get("kind") in known for part in found):
            return found
    elif kind in known:
        return [data]
    if named or kind == RESULTS:
        raise InputError("report", str(file), "a record that deconfound wrote")
    return []


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
