"""Where the rooms meet: recipes, the registry of names, and the jobs behind the commands."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from deconfound.recipes.evaluating import evaluate, evaluate_target
    from deconfound.recipes.loading import load
    from deconfound.recipes.schema import Recipe
    from deconfound.recipes.training import Trained, train

_HOME = {
    "Recipe": "schema",
    "Trained": "training",
    "evaluate": "evaluating",
    "evaluate_target": "evaluating",
    "load": "loading",
    "train": "training",
}
__all__ = ["Recipe", "Trained", "evaluate", "evaluate_target", "load", "train"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
