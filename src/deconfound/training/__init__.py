"""The player/step loop: optimisers, schedules, weight averaging, selection, distributed steps."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from deconfound.training.hooks import FitResult, Hooks
    from deconfound.training.loop import fit
    from deconfound.training.settings import (
        AveragingSettings,
        LoopSettings,
        OptimizerSettings,
        ScheduleSettings,
        SelectionSettings,
    )

_HOME = {
    "FitResult": "hooks",
    "Hooks": "hooks",
    "fit": "loop",
    "AveragingSettings": "settings",
    "LoopSettings": "settings",
    "OptimizerSettings": "settings",
    "ScheduleSettings": "settings",
    "SelectionSettings": "settings",
}
__all__ = [
    "AveragingSettings",
    "FitResult",
    "Hooks",
    "LoopSettings",
    "OptimizerSettings",
    "ScheduleSettings",
    "SelectionSettings",
    "fit",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
