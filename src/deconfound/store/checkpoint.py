"""Checkpoints that know when they are damaged.

A checkpoint is an ordinary file of ``torch.save`` with a line appended: the SHA-256 of everything before it. PyTorch
reads past the line, so the file also opens with ``torch.load(path, weights_only=True)``.
"""

from __future__ import annotations

import hashlib
import io
import logging
import os
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from deconfound.errors import InputError
from deconfound.store.atomic import replacing

_MARK = b"\ndeconfound checkpoint sha256 "
_TAIL = len(_MARK) + 64 + 1

logger = logging.getLogger(__name__)


class CheckpointFile:
    """``last.ckpt`` and ``previous.ckpt`` of a run, behind the ``Checkpointer`` protocol.

    Args:
        folder: the run folder.
        digest: of what is trained, recipe and data; a checkpoint of another training is refused.
    """

    def __init__(self, folder: str | Path, digest: str = "") -> None:
        self.last = Path(folder) / "last.ckpt"
        self.previous = Path(folder) / "previous.ckpt"
        self.digest = digest
        self._last_is_damaged = False

    def save(self, state: Mapping[str, Any]) -> None:
        """Write ``last.ckpt``; the one before becomes ``previous.ckpt``. There is an intact one at every moment."""
        content = io.BytesIO()  # torch would hide a full disk behind an error of its own
        torch.save({"digest": self.digest, "state": dict(state)}, content)
        with replacing(self.last) as temporary:
            with temporary.open("wb") as file:
                file.write(content.getbuffer())
                file.write(_mark(hashlib.sha256(content.getbuffer()).hexdigest()))
            self._keep_previous()
        self._last_is_damaged = False

    def _keep_previous(self) -> None:
        if self._last_is_damaged or not self.last.exists():
            return
        link = self.previous.with_name(f".{self.previous.name}.{os.getpid()}.tmp")
        link.unlink(missing_ok=True)
        try:
            os.link(self.last, link)
        except OSError:  # a file system without hard links: for a moment only ``previous.ckpt`` exists
            self.last.replace(self.previous)
            return
        link.replace(self.previous)

    def load(self) -> dict[str, Any] | None:
        """The newest intact state; None where no checkpoint exists. A damaged one is named in the log and passed over.

        Raises:
            InputError: all checkpoints are damaged, or one belongs to another recipe.
        """
        damaged = []
        for path in (self.last, self.previous):
            if not path.exists():
                continue
            try:
                found = _read(path)
            except ValueError as error:
                damaged.append(f"{path.name}: {error}")
                continue
            if self.digest and found["digest"] != self.digest:
                rule = "a checkpoint of this recipe and these data; this one belongs to another training"
                raise InputError("resume", str(path), rule)
            if damaged:
                self._last_is_damaged = True
                logger.warning("damaged checkpoint %s; continuing from %s", damaged[0], path.name)
            return dict(found["state"])
        if damaged:
            rule = f"an intact checkpoint ({'; '.join(damaged)}); --overwrite starts again"
            raise InputError("resume", str(self.last.parent), rule)
        return None


def _mark(digest: str) -> bytes:
    return _MARK + digest.encode() + b"\n"


def _sha256(path: Path, length: int) -> str:
    digest = hashlib.sha256()
    left = length
    with path.open("rb") as file:
        while left > 0 and (block := file.read(min(1 << 20, left))):
            digest.update(block)
            left -= len(block)
    return digest.hexdigest()


def _read(path: Path) -> dict[str, Any]:
    size = path.stat().st_size - _TAIL
    with path.open("rb") as file:
        file.seek(max(0, size))
        tail = file.read()
    if size <= 0 or not tail.startswith(_MARK):
        raise ValueError("its end is missing")
    if tail != _mark(_sha256(path, size)):
        raise ValueError("its content does not match its digest")
    try:
        return dict(torch.load(path, weights_only=True, map_location="cpu"))
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise ValueError(f"unreadable: {' '.join(str(error).split())[:120]}") from None
