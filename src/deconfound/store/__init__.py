"""Run folders, checkpoints, weights and journals: the only writer. Every write is atomic."""

from __future__ import annotations

from typing import TYPE_CHECKING

from deconfound.lazy import exporter

if TYPE_CHECKING:
    from deconfound.store.atomic import remove, write_bytes, write_text
    from deconfound.store.checkpoint import CheckpointFile
    from deconfound.store.journal import JsonLines
    from deconfound.store.lock import held
    from deconfound.store.run import RunFolder
    from deconfound.store.weights import read_weights, write_weights

_HOME = {
    "CheckpointFile": "checkpoint",
    "JsonLines": "journal",
    "RunFolder": "run",
    "held": "lock",
    "read_weights": "weights",
    "remove": "atomic",
    "write_bytes": "atomic",
    "write_text": "atomic",
    "write_weights": "weights",
}
__all__ = [
    "CheckpointFile",
    "JsonLines",
    "RunFolder",
    "held",
    "read_weights",
    "remove",
    "write_bytes",
    "write_text",
    "write_weights",
]


__getattr__ = exporter(__name__, _HOME)
