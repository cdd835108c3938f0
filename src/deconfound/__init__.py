"""deconfound: train, attack, judge and explain image classifiers under the causal view of adversarial robustness."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from deconfound import attacks, models
    from deconfound.core.streams import Streams
    from deconfound.core.threat import ThreatModel
    from deconfound.errors import InputError
    from deconfound.recipes.evaluating import evaluate
    from deconfound.recipes.loading import load
    from deconfound.recipes.training import train
    from deconfound.records import EvaluationRecord, TrainingRecord

_HOME = {
    "EvaluationRecord": "records",
    "InputError": "errors",
    "Streams": "core.streams",
    "ThreatModel": "core.threat",
    "TrainingRecord": "records",
    "evaluate": "recipes.evaluating",
    "load": "recipes.loading",
    "train": "recipes.training",
}
__all__ = [
    "EvaluationRecord",
    "InputError",
    "Streams",
    "ThreatModel",
    "TrainingRecord",
    "attacks",
    "evaluate",
    "load",
    "models",
    "train",
]


def __getattr__(name: str) -> Any:
    if name in ("attacks", "models"):
        return import_module(f"{__name__}.{name}")
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
