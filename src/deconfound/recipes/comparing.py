"""The job behind ``deconfound compare``: evaluations of one data set side by side, and tested pair by pair."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from deconfound.errors import InputError, require, unknown_name
from deconfound.recipes.pairing import paired
from deconfound.recipes.reading import files_in, records_in
from deconfound.records import ComparedEvaluation, Comparison, EvaluationRecord
from deconfound.reporting.text import clean, labels, shortened
from deconfound.store import write_text

FIELD = "compare"
ADJUSTMENTS = ("holm", "none")


@dataclass(frozen=True)
class _Found:
    """A record, the file it lies in, and its number there where the file holds several."""

    record: EvaluationRecord
    file: Path
    number: int = 0


def compare(
    places: Iterable[str | Path], *, adjust: str = "holm", out: str | Path | None = None, overwrite: bool = False
) -> Comparison:
    """Several evaluations side by side, and McNemar's paired test for each pair that may be compared.

    Two records are tested on the examples that both saw, if threat model, suite and budget are equal; otherwise the
    pair says why it is not. Every accuracy keeps its interval and its verdict. Robust and clean accuracy are two
    questions, each adjusted over all pairs that are tested.

    Args:
        places: record files, or folders such as runs, of which all evaluation records are taken.
        adjust: ``"holm"`` for p-values adjusted for the number of pairs, or ``"none"``.
        out: a file to write the comparison to.
        overwrite: replace what lies there.

    Returns:
        The rows in the order of the places, and a test or a reason for each pair of rows.

    Raises:
        InputError: fewer than two evaluations, one that is given twice, different data sets, a file that is no
            evaluation record, or a file at ``out`` already.
    """
    require(not isinstance(places, (str, Path)), FIELD, str(places), "a list of files or folders")
    if adjust not in ADJUSTMENTS:
        raise unknown_name("adjust", adjust, ADJUSTMENTS)
    found, files = _collect([Path(place) for place in places])
    if out is not None:
        _check_free(Path(out), files, overwrite=overwrite)
    _check_data(found)
    rows = [_row(label, one) for label, one in zip(_labels(found), found, strict=True)]
    comparison = paired(rows, [one.record for one in found], adjust)
    if out is not None:
        write_text(out, comparison.to_json())
    return comparison


def _collect(places: Sequence[Path]) -> tuple[list[_Found], set[Path]]:
    """What lies in the places, and the files that hold it; equal records below one folder are one."""
    found: list[_Found] = []
    files: set[Path] = set()
    known: dict[str, Path] = {}
    for place in places:
        here = [one for file in files_in(place, FIELD) for one in _evaluations(file, named=file == place)]
        for one in here:
            require(one.file.resolve() not in files, FIELD, str(one.file), "each file once; this one is given twice")
        inside: dict[str, _Found] = {}
        for one in here:
            inside.setdefault(one.record.to_json(), one)
        for content, one in inside.items():
            if content in known:
                raise InputError(FIELD, str(one.file), f"each record once; {known[content]} holds the same one")
            known[content] = one.file
        found += inside.values()
        files |= {one.file.resolve() for one in here}
    if len(found) < 2:
        shown = ", ".join(str(place) for place in places)
        raise InputError(FIELD, shown, f"at least two evaluation records (deconfound evaluate), not {len(found)}")
    return found, files


def _evaluations(file: Path, *, named: bool) -> list[_Found]:
    """The evaluation records of a file; what was named must hold one, or its reading says what it holds."""
    records = records_in(file, FIELD)
    mine = [data for data in records or () if data["kind"] == EvaluationRecord.expected_kind]
    if named and not mine:
        return [_Found(EvaluationRecord.read(file), file)]
    texts = [json.dumps(data) for data in mine]
    return [
        _Found(EvaluationRecord.from_json(text, str(file)), file, number if len(texts) > 1 else 0)
        for number, text in enumerate(texts, 1)
    ]


def _check_free(out: Path, files: set[Path], *, overwrite: bool) -> None:
    require(not out.is_dir(), "out", str(out), "a file; a folder lies here")
    require(overwrite or not out.exists(), "out", str(out), "a new file; one lies here (--overwrite replaces it)")
    require(out.resolve() not in files, "out", str(out), "another file than those that are compared")


def _check_data(found: Sequence[_Found]) -> None:
    first = found[0]
    for other in found[1:]:
        if other.record.data_digest != first.record.data_digest:
            raise InputError(f"{other.file}: data", _data(other), f"the data of {first.file}, {_data(first)}")


def _data(one: _Found) -> str:
    return f"{clean(one.record.data)} (digest {one.record.data_digest[:12]})"


def _row(label: str, one: _Found) -> ComparedEvaluation:
    copied = set(ComparedEvaluation.model_fields) - {"label", "file"}
    return ComparedEvaluation(label=label, file=str(one.file), **{name: getattr(one.record, name) for name in copied})


def _labels(found: Sequence[_Found]) -> list[str]:
    """Model and defence; where that is ambiguous the file's name too, with as many folders as tell it apart."""
    titles = [labels([one.record])[0] for one in found]
    names = list(titles)
    for depth in range(1, max(len(one.file.resolve().parts) for one in found) + 1):
        again = Counter(names)
        names = [
            f"{title}, {_tail(one, depth)}" if again[name] > 1 else name
            for name, title, one in zip(names, titles, found, strict=True)
        ]
    return shortened(names, max(map(len, names)))


def _tail(one: _Found, depth: int) -> str:
    path = "/".join(one.file.resolve().parts[-depth:]).removesuffix(".json")
    return clean(path) + (f" #{one.number}" if one.number else "")
