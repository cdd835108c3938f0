"""Atomic writes: a temporary file beside the target, flushed to the disk, then renamed; and removal."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from deconfound.errors import InputError


def cannot_write(path: Path, error: OSError) -> InputError:
    """The one line for a full disk, a missing right, and the like."""
    in_the_way = isinstance(error, (FileExistsError, NotADirectoryError))
    reason = "a file lies where a folder is needed" if in_the_way else error.strerror or error
    return InputError("out", str(path), f"a place that can be written ({reason}); nothing was changed")


def remove(path: str | Path) -> None:
    """Remove a file; one that is not there is as good as removed.

    Raises:
        InputError: the system refuses it (no right, a folder of that name).
    """
    try:
        Path(path).unlink(missing_ok=True)
    except OSError as error:
        raise InputError("out", str(path), f"a file that can be removed ({error.strerror or error})") from None


def sync_folder(folder: Path) -> None:
    """Flush a rename to the disk, where the file system can: some refuse it for folders."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A temporary path to write to; it becomes ``path`` at the end, or disappears if anything failed.

    Raises:
        InputError: the system refuses the write (full disk, no right); the old file is untouched.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        raise cannot_write(path, error) from None
    finally:
        with suppress(OSError):  # of the same kind as the one that is being reported
            temporary.unlink(missing_ok=True)


def write_bytes(path: str | Path, data: bytes) -> None:
    """Write a file atomically."""
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def write_text(path: str | Path, text: str) -> None:
    """Write a UTF-8 file atomically."""
    write_bytes(path, text.encode())
