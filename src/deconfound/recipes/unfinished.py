"""The journal of an evaluation that may be interrupted: ``OUT.journal`` beside the record."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from deconfound.core.protocols import Journal
from deconfound.errors import InputError, require
from deconfound.store import JsonLines


@contextmanager
def journal_beside(record: Path, *, overwrite: bool = False) -> Iterator[Journal]:
    """A journal that the same call finds again after an interruption; it disappears when the work is done.

    Bad input leaves no journal behind, unless finished pieces are in it.

    Args:
        record: the file that the result will be written to, inside.
        overwrite: replace a finished record and forget an unfinished one.

    Raises:
        InputError: something lies at ``record``, or an unfinished evaluation with other settings beside it.
    """
    require(not record.is_dir(), "out", str(record), "a file; a folder lies here")
    rule = "a new file; a finished record lies here (--overwrite replaces it)"
    require(overwrite or not record.exists(), "out", str(record), rule)
    path = record.with_name(record.name + ".journal")
    if overwrite and path.exists():
        path.unlink()
    is_new = not path.exists()
    journal = JsonLines(path)
    try:
        yield journal
    except InputError as error:
        if is_new and path.exists() and len(journal.entries()) <= 1:  # it says what was asked, and nothing else yet
            path.unlink()
        if error.field.startswith("journal"):
            rule = f"{error.rule}; {path} holds an unfinished evaluation with other settings (--overwrite forgets it)"
            raise InputError(error.field, error.value, rule) from None
        raise
    path.unlink(missing_ok=True)
