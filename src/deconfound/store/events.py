"""TensorBoard's event files, written in this thread: a full disk is then an error here, not one of a helper thread."""

from __future__ import annotations

import itertools
import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

_number = itertools.count()


class EventFile:
    """A new event file in a folder; what other files there hold from ``first_step`` on is no longer shown.

    Raises:
        OSError: the system refuses the write; also from ``add``.
    """

    def __init__(self, folder: Path, first_step: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        name = f"events.out.tfevents.{int(time.time()):010d}.{socket.gethostname()}.{os.getpid()}.{next(_number)}"
        self._file = (folder / name).open("wb")
        self._records = RecordWriter(self._file)
        self._write(Event(wall_time=time.time(), file_version="brain.Event:2"))
        start = SessionLog(status=SessionLog.START)
        self._write(Event(wall_time=time.time(), step=first_step, session_log=start))

    def add(self, step: int, numbers: Mapping[str, float]) -> None:
        """Add numbers by tag; they are in the file when this returns."""
        values = [Summary.Value(tag=tag, simple_value=number) for tag, number in numbers.items()]
        self._write(Event(wall_time=time.time(), step=step, summary=Summary(value=values)))
        self._file.flush()

    def _write(self, event: Event) -> None:
        self._records.write(event.SerializeToString())

    def close(self) -> None:
        """Close the file."""
        self._file.close()
