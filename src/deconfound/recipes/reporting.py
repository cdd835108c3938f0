"""The job behind ``deconfound report``: records from folders to one page."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deconfound.errors import InputError, require
from deconfound.recipes.reading import RESULTS, files_in, kind_of, read, records_of
from deconfound.records import (
    ANALYSES,
    SCHEMA_VERSION,
    AnalysisRecord,
    EvaluationRecord,
    TrainingRecord,
    VersionedRecord,
)
from deconfound.reporting import render
from deconfound.reporting.text import clean, listing
from deconfound.store import write_text

FIELD = "report"
_TAKEN = "a record of an evaluation, a training or an analysis"
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
    """All records in some places, in the order of their paths; ``others`` counts what no report shows, by kind."""

    evaluations: list[EvaluationRecord]
    trainings: list[TrainingRecord]
    analyses: list[AnalysisRecord]
    others: Counter[str]


def collect(places: Iterable[str | Path]) -> Collected:
    """All records in some files and folders, in the order of their paths; equal records are taken once.

    Raises:
        InputError: a place that does not exist, a record of a newer schema, or no evaluation record at all.
    """
    folders = [Path(place) for place in places]
    collected: dict[str, VersionedRecord] = {}
    others: Counter[str] = Counter()
    for file in (file for place in folders for file in files_in(place, FIELD)):
        plain = read(file, FIELD)
        found = records_of(plain, file, FIELD)
        if found is None and (kind := kind_of(plain)):
            others[kind] += 1
        if found is None and file in folders:
            said = f"{_TAKEN}; this is one of a {clean(kind)}" if kind else "a record that deconfound wrote"
            raise InputError(FIELD, str(file), said)
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
    return Collected(evaluations, trainings, analyses, others)


def write_report(
    places: Iterable[str | Path],
    out: str | Path,
    *,
    overwrite: bool = False,
    say: Callable[[str], object] | None = None,
) -> Path:
    """Render the records of some places to one self-contained page.

    Args:
        places: files and folders.
        out: the page.
        overwrite: replace a page that lies there.
        say: told which of our records the page does not show.

    Raises:
        InputError: nothing to report, or a page that is there already.
    """
    out = Path(out)
    require(not out.is_dir(), "out", str(out), "a file; a folder lies here")
    require(overwrite or not out.exists(), "out", str(out), "a new file; one lies here (--overwrite replaces it)")
    found = collect(places)
    write_text(out, render(found.evaluations, found.trainings, analyses=found.analyses))
    if say is not None and found.others:
        shown = listing([f"{clean(kind)} ({many})" for kind, many in sorted(found.others.items())])
        say(f"not on the page, which shows evaluations, trainings and analyses: records of kind {shown}")
    return out
