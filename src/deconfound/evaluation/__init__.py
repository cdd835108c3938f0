"""Judging models: robust accuracy with everything needed to believe it, as one record. Attacks are passed in.

The function is ``deconfound.evaluation.evaluate.evaluate``; a name that is also a module cannot be exported here.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from deconfound.evaluation.masking import Probes, verdict
    from deconfound.evaluation.provenance import Provenance

_HOME = {"Probes": "masking", "Provenance": "provenance", "verdict": "masking"}
__all__ = ["Probes", "Provenance", "verdict"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
