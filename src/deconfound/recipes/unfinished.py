"""The journals of an evaluation that may be interrupted: ``OUT.journal`` beside the record, one more per process."""

from __future__ import annotations

import glob
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from deconfound.core.protocols import Crew, Journal
from deconfound.errors import InputError, require
from deconfound.store import JsonLines, remove
from deconfound.store.journal import SharedLines

Result = TypeVar("Result")


def with_journal(
    record: Path | None, work: Callable[[Journal | None], Result], *, overwrite: bool = False, crew: Crew | None = None
) -> Result:
    """Work with a journal that the same call finds again after an interruption; it disappears when the work is done.

    Every process writes a file of its own and starts from what all of them wrote, however many they were. Bad input
    leaves no journal behind, unless finished pieces are in it.

    Args:
        record: the file that the result is written to by the work; None for no journal.
        work: what is done, given the journal.
        overwrite: replace a finished record. Only a call that overwrites can have begun a journal newer than that, so
            work goes on from it; an older one is forgotten, and so is one of another call.
        crew: the processes that share the work.

    Raises:
        InputError: something lies at ``record``, or an unfinished evaluation with other settings beside it.
    """
    if record is None:
        return work(None)
    _first(crew, lambda: _make_room(record, overwrite))
    try:
        return _attempt(record, work, crew)
    except InputError as error:
        if not (overwrite and _is_of_journal(error)):
            raise
    _first(crew, lambda: _forget(_all(record)))
    _forget([_own(record, _rank(crew))])  # where the first sees another disk
    return _attempt(record, work, crew)


def _attempt(record: Path, work: Callable[[Journal | None], Result], crew: Crew | None) -> Result:
    """The work with the journals as they lie there."""
    rank = _rank(crew)
    path = _own(record, rank)
    is_new = not path.exists()
    own = JsonLines(path)
    journal = SharedLines(own, [other for other in _all(record) if other != path])
    _wait(crew)  # nobody writes while another still reads
    try:
        result = work(journal)
    except InputError as error:
        if is_new and path.exists() and all(entry.get("piece") == "call" for entry in own.entries()):
            with suppress(InputError):  # what was wrong first is the better thing to say
                remove(path)
        if _is_of_journal(error):
            rule = f"{error.rule}; {path} holds an unfinished evaluation with other settings (--overwrite forgets it)"
            raise InputError(error.field, error.value, rule) from None
        raise
    _wait(crew)
    _forget(_all(record) if rank == 0 else [path])  # its own too, where the first sees another disk
    return result


def _is_of_journal(error: InputError) -> bool:
    return error.field.startswith("journal")


def _rank(crew: Crew | None) -> int:
    return 0 if crew is None else crew.rank


def _own(record: Path, rank: int) -> Path:
    return record.with_name(record.name + (f".journal.{rank}" if rank else ".journal"))


def _all(record: Path) -> list[Path]:
    """The journals of all processes of earlier calls, in the order of their names."""
    first = _own(record, 0)
    numbered = [path for path in first.parent.glob(f"{glob.escape(first.name)}.*") if path.suffix[1:].isdigit()]
    return [path for path in (first, *sorted(numbered)) if path.exists()]


def _make_room(record: Path, overwrite: bool) -> None:
    require(not record.is_dir(), "out", str(record), "a file; a folder lies here")
    rule = "a new file; a finished record lies here (--overwrite replaces it)"
    require(overwrite or not record.exists(), "out", str(record), rule)
    if record.exists():
        written = record.stat().st_mtime_ns
        _forget(path for path in _all(record) if path.stat().st_mtime_ns <= written)


def _forget(journals: Iterable[Path]) -> None:
    for path in journals:
        remove(path)


def _first(crew: Crew | None, act: Callable[[], None]) -> None:
    """The first process acts; what it refuses is refused by all."""
    refusal: InputError | None = None
    if crew is None or crew.rank == 0:
        try:
            act()
        except InputError as error:
            refusal = error
    if crew is not None:
        refusal = crew.gather({"refusal": refusal})[0]["refusal"]
    if refusal is not None:
        raise refusal


def _wait(crew: Crew | None) -> None:
    if crew is not None:
        crew.gather({})
