"""A journal as a file of JSON lines, mirrored to TensorBoard where asked."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deconfound.store.atomic import cannot_write, write_text

if TYPE_CHECKING:
    from deconfound.store.events import EventFile


class JsonLines:
    """An append-only file with one JSON object per line; each append is on the disk when it returns.

    A last line that was cut off by a kill is dropped when the journal is opened.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._entries: list[dict[str, Any]] = []
        if self.path.exists():
            self._recover()

    def _recover(self) -> None:
        text = self.path.read_text(errors="replace")
        self._entries = _whole_lines(text)
        whole = "".join(_line(entry) for entry in self._entries)
        if whole != text:
            write_text(self.path, whole)

    def append(self, entry: Mapping[str, Any]) -> None:
        """Add one entry."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a") as file:
                file.write(_line(entry))
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise cannot_write(self.path, error) from None
        self._entries.append(dict(entry))

    def entries(self) -> list[dict[str, Any]]:
        """All entries, oldest first."""
        return list(self._entries)


class SharedLines:
    """The journal of one of several processes: what all of them wrote before, and a file of its own to go on with.

    Args:
        own: appended to.
        others: files of other processes, read once and never written.
    """

    def __init__(self, own: JsonLines, others: Iterable[Path]) -> None:
        self._own = own
        self._others = [entry for path in others for entry in _whole_lines(path.read_text(errors="replace"))]

    def append(self, entry: Mapping[str, Any]) -> None:
        """Add one entry to the own file."""
        self._own.append(entry)

    def entries(self) -> list[dict[str, Any]]:
        """Own entries, oldest first, then those that the others had written."""
        return [*self._own.entries(), *self._others]


def _whole_lines(text: str) -> list[dict[str, Any]]:
    """The objects up to the first line that is none, which a kill has cut off."""
    found: list[dict[str, Any]] = []
    for line in text.splitlines():
        try:
            found.append(dict(json.loads(line)))
        except (ValueError, TypeError):
            break
    return found


def _line(entry: Mapping[str, Any]) -> str:
    return json.dumps(dict(entry), sort_keys=True) + "\n"


class TensorBoardMirror:
    """A journal whose numbers also go to TensorBoard, with the entry's ``epoch`` as the step.

    TensorBoard's file appears with the first entry; what an earlier process wrote from that epoch on is purged.
    """

    def __init__(self, journal: JsonLines, folder: str | Path) -> None:
        self._journal = journal
        self._folder = Path(folder)
        self._file: EventFile | None = None

    def append(self, entry: Mapping[str, Any]) -> None:
        """Add one entry to both."""
        self._journal.append(entry)
        numbers = {
            name.replace("_", "/", 1): float(value)
            for name, value in entry.items()
            if name != "epoch" and isinstance(value, (int, float))
        }
        epoch = int(entry["epoch"])
        try:
            self._opened(epoch).add(epoch, numbers)
        except OSError as error:
            raise cannot_write(self._folder, error) from None

    def _opened(self, epoch: int) -> EventFile:
        if self._file is None:
            from deconfound.store.events import EventFile  # slow to import, needed only here

            self._file = EventFile(self._folder, epoch)
        return self._file

    def entries(self) -> list[dict[str, Any]]:
        """All entries, oldest first."""
        return self._journal.entries()

    def close(self) -> None:
        """Close TensorBoard's file; what could not be written was reported before."""
        if self._file is not None:
            with suppress(OSError):
                self._file.close()
