"""deconfound: train, attack, judge and explain image classifiers under the causal view of adversarial robustness."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from deconfound.lazy import exporter

if TYPE_CHECKING:
    from deconfound import analysis, attacks, data, evaluation, models, objectives, training
    from deconfound.core.streams import Streams
    from deconfound.core.threat import ThreatModel
    from deconfound.errors import InputError
    from deconfound.recipes.analysing import analyze, analyze_all
    from deconfound.recipes.comparing import compare
    from deconfound.recipes.evaluating import evaluate
    from deconfound.recipes.exporting import export
    from deconfound.recipes.loading import load
    from deconfound.recipes.reporting import write_report
    from deconfound.recipes.studying import study
    from deconfound.recipes.training import train
    from deconfound.records import Comparison, EvaluationRecord, ModelCard, StudyRecord, TrainingRecord

_HOME = {
    "Comparison": "records",
    "EvaluationRecord": "records",
    "InputError": "errors",
    "ModelCard": "records",
    "StudyRecord": "records",
    "Streams": "core.streams",
    "ThreatModel": "core.threat",
    "TrainingRecord": "records",
    "analyze": "recipes.analysing",
    "analyze_all": "recipes.analysing",
    "compare": "recipes.comparing",
    "evaluate": "recipes.evaluating",
    "export": "recipes.exporting",
    "load": "recipes.loading",
    "study": "recipes.studying",
    "train": "recipes.training",
    "write_report": "recipes.reporting",
}
_ROOMS = ("analysis", "attacks", "data", "evaluation", "models", "objectives", "training")
__all__ = [
    "Comparison",
    "EvaluationRecord",
    "InputError",
    "ModelCard",
    "StudyRecord",
    "Streams",
    "ThreatModel",
    "TrainingRecord",
    "analysis",
    "analyze",
    "analyze_all",
    "attacks",
    "compare",
    "data",
    "evaluate",
    "evaluation",
    "export",
    "load",
    "models",
    "objectives",
    "study",
    "train",
    "training",
    "write_report",
]


_get = exporter(__name__, _HOME)


def __getattr__(name: str) -> Any:
    return import_module(f"{__name__}.{name}") if name in _ROOMS else _get(name)
