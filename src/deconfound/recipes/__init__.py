"""Where the rooms meet: recipes, the registry of names, and the jobs behind the commands."""

from __future__ import annotations

from typing import TYPE_CHECKING

from deconfound.lazy import exporter

if TYPE_CHECKING:
    from deconfound.recipes.comparing import compare
    from deconfound.recipes.entries import Entry, ObjectiveSettings, inner_attack
    from deconfound.recipes.evaluating import Judging, evaluate
    from deconfound.recipes.exporting import export
    from deconfound.recipes.loading import load
    from deconfound.recipes.schema import Recipe
    from deconfound.recipes.studying import study
    from deconfound.recipes.targets import Target, evaluate_target
    from deconfound.recipes.training import Trained, train

_HOME = {
    "Entry": "entries",
    "ObjectiveSettings": "entries",
    "Recipe": "schema",
    "Trained": "training",
    "compare": "comparing",
    "evaluate": "evaluating",
    "Judging": "evaluating",
    "Target": "targets",
    "evaluate_target": "targets",
    "export": "exporting",
    "inner_attack": "entries",
    "load": "loading",
    "study": "studying",
    "train": "training",
}
__all__ = [
    "Entry",
    "ObjectiveSettings",
    "Judging",
    "Recipe",
    "Target",
    "Trained",
    "compare",
    "evaluate",
    "evaluate_target",
    "export",
    "inner_attack",
    "load",
    "study",
    "train",
]


__getattr__ = exporter(__name__, _HOME)
