"""A journal as a file of JSON lines, mirrored to TensorBoard where asked."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deconfound.store.atomic import cannot_write, write_text

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


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
        for line in text.splitlines():
            try:
                self._entries.append(dict(json.loads(line)))
            except (ValueError, TypeError):
                break
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


def _line(entry: Mapping[str, Any]) -> str:
    return json.dumps(dict(entry), sort_keys=True) + "\n"


class TensorBoardMirror:
    """A journal whose numbers also go to TensorBoard, with the entry's ``epoch`` as the step.

    TensorBoard's file appears with the first entry; what an earlier process wrote from that epoch on is purged.
    """

    def __init__(self, journal: JsonLines, folder: str | Path) -> None:
        self._journal = journal
        self._folder = Path(folder)
        self._writer: SummaryWriter | None = None

    def append(self, entry: Mapping[str, Any]) -> None:
        """Add one entry to both."""
        self._journal.append(entry)
        epoch = int(entry["epoch"])
        try:
            writer = self._opened(epoch)
            for name, value in entry.items():
                if name != "epoch" and isinstance(value, (int, float)):
                    writer.add_scalar(name.replace("_", "/", 1), value, epoch)
            writer.flush()
        except OSError as error:
            raise cannot_write(self._folder, error) from None

    def _opened(self, epoch: int) -> SummaryWriter:
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter  # slow to import, needed only here

            self._writer = SummaryWriter(str(self._folder), purge_step=epoch)
        return self._writer

    def entries(self) -> list[dict[str, Any]]:
        """All entries, oldest first."""
        return self._journal.entries()

    def close(self) -> None:
        """Close TensorBoard's file."""
        if self._writer is not None:
            self._writer.close()
