"""Locks between processes of one machine that share a folder of work."""

from __future__ import annotations

import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from deconfound.store.atomic import cannot_write

NAME = ".lock"
_SOMEBODY = "another process"


@contextmanager
def held(folder: str | Path) -> Iterator[str]:
    """Hold a folder's lock inside; nobody waits.

    The system itself lets go of the lock when its holder ends, however that happens, so a file that a killed process
    left behind is no obstacle. The file is removed by whoever held it.

    Yields:
        Nothing where the lock is ours; else who holds it, as ``process 12 on host``.

    Raises:
        InputError: the folder cannot be written.
    """
    path = Path(folder) / NAME
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = _taken(path)
    except OSError as error:
        raise cannot_write(path, error) from None
    if handle is None:
        yield _said(path)
        return
    try:
        yield ""
    finally:
        path.unlink(missing_ok=True)  # before the lock is let go: nobody else has it then
        os.close(handle)


def holder(folder: str | Path) -> str:
    """Who holds a folder's lock, in words; empty where nobody does."""
    path = Path(folder) / NAME
    try:
        handle = os.open(path, os.O_RDWR)
    except OSError:
        return ""
    try:
        return "" if _locked(handle) else _said(path)
    finally:
        os.close(handle)


def _said(path: Path) -> str:
    """What the holder wrote of itself."""
    with suppress(OSError):
        return path.read_text(errors="replace").strip() or _SOMEBODY
    return _SOMEBODY


def _taken(path: Path) -> int | None:
    """The open file once it is locked, and still the one that others find there; None where another has it."""
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        if not _locked(handle):
            os.close(handle)
            return None
        try:
            same = os.path.samestat(os.fstat(handle), path.stat())
        except FileNotFoundError:  # its holder ended between our two steps
            same = False
        if same:
            os.ftruncate(handle, 0)
            os.write(handle, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
            return handle
        os.close(handle)


def _locked(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
