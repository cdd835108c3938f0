"""The player/step loop: optimisers, schedules, weight averaging, selection, distributed steps."""

from __future__ import annotations

from typing import TYPE_CHECKING

from deconfound.lazy import exporter

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


__getattr__ = exporter(__name__, _HOME)
