"""Reliance records from several places, for a table of models by rho."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from deconfound.errors import InputError
from deconfound.recipes.reading import files_in, records_in
from deconfound.records import RelianceRecord

FIELD = "compare"


def collect_reliance(places: Iterable[str | Path]) -> list[RelianceRecord]:
    """All reliance records in some files and folders, in the order of the places; equal ones are taken once.

    Raises:
        InputError: a place that does not exist, a damaged or newer record, fewer than two records.
    """
    folders = [Path(place) for place in places]
    found: dict[str, RelianceRecord] = {}
    for file in (file for place in folders for file in files_in(place, FIELD)):
        for data in records_in(file, FIELD) or ():
            if data["kind"] == RelianceRecord.expected_kind:
                text = json.dumps(data)
                found.setdefault(text, RelianceRecord.from_json(text, str(file)))
    if len(found) < 2:
        shown = ", ".join(str(place) for place in folders)
        rule = f"at least two reliance records (deconfound analyze RUN reliance), not {len(found)}"
        raise InputError(FIELD, shown, rule)
    return list(found.values())
