"""Finding records in files and folders, for the jobs that show several of them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deconfound.errors import InputError
from deconfound.records import ANALYSES, SCHEMA_VERSION, EvaluationRecord, TrainingRecord

RESULTS = "results"  # the kind of a file that holds several evaluation records and analyses
_BEGINNING = re.compile(rb'\s*\{\s*"(?:schema_version": *\d+, *\s*"kind|kind": *"results)"')  # how our records begin
_KNOWN = (EvaluationRecord.expected_kind, TrainingRecord.expected_kind, *ANALYSES)


def files_in(place: Path, field: str) -> list[Path]:
    """A file itself, or all JSON files below a folder in the order of their paths.

    Raises:
        InputError: nothing lies there; ``field`` is the job that asks.
    """
    if place.is_file():
        return [place]
    if not place.is_dir():
        raise InputError(field, str(place), "a folder or file that exists")
    return sorted(place.rglob("*.json"))


def records_in(file: Path, field: str) -> list[Mapping[str, Any]] | None:
    """The evaluations, trainings and analyses of a file as they lie there; None where it is not a file of records.

    Raises:
        InputError: as ``read`` and ``records_of`` do.
    """
    return records_of(read(file, field), file, field)


def read(file: Path, field: str) -> Any:
    """What a file holds as JSON; None where it holds none.

    Raises:
        InputError: a record that is cut off, so that none is left out in silence.
    """
    try:
        text = file.read_bytes()
    except OSError:
        return None
    try:
        return json.loads(text)
    except ValueError:
        if _BEGINNING.match(text):
            raise InputError(
                field, str(file), "a whole record; this one is damaged, make it again or remove it"
            ) from None
        return None


def records_of(data: Any, file: Path, field: str) -> list[Mapping[str, Any]] | None:
    """The evaluations, trainings and analyses in what ``read`` found in a file; None where it is not a file of records.

    Raises:
        InputError: results that are no records; a record of a newer schema, whatever its kind.
    """
    kind = data.get("kind") if isinstance(data, dict) else None
    version = data.get("schema_version") if isinstance(kind, str) else None
    if isinstance(version, int) and version > SCHEMA_VERSION:
        raise InputError(f"{file}: schema_version", version, f"at most {SCHEMA_VERSION}; update deconfound")
    if kind == RESULTS:
        found, more = data.get("evaluations"), data.get("analyses", [])
        if isinstance(found, list) and isinstance(more, list):
            parts = [*found, *more]
            if all(isinstance(part, dict) and part.get("kind") in _KNOWN for part in parts):
                return parts
        raise InputError(field, str(file), "a record that deconfound wrote")
    return [data] if kind in _KNOWN else None


def kind_of(data: Any) -> str:
    """What a record of ours says it is, such as ``study``; empty where it is none.

    Args:
        data: what ``read`` found in a file.
    """
    ours = isinstance(data, dict) and isinstance(data.get("schema_version"), int)
    return str(data.get("kind", "")) if ours else ""
