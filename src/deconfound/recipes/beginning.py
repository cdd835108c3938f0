"""Where the network of a run begins: at weights drawn from its seed, or at those of a stage."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from deconfound.errors import require
from deconfound.models import fit_state
from deconfound.recipes.entries import Stage
from deconfound.recipes.registry import entry_of
from deconfound.recipes.schema import Recipe

ALIKE = ("model", "normalisation", "sampler")
"""What a network has in common with the one that it begins at."""

FREE = ("dropout", "layer")
"""Options that may differ: in evaluation the network computes the same with any of them."""


def begin(model: nn.Module, recipe: Recipe, stages: Mapping[str, Stage]) -> None:
    """Weights and BatchNorm statistics of the stage that the recipe's network starts from, if any, into the network.

    Args:
        model: as ``build_model`` makes it; it keeps dtype and device.
        recipe: of the run.
        stages: that it builds on, by name.

    Raises:
        InputError: the stage has another network.
    """
    name = entry_of(recipe.objective.name).begins_at
    if not name:
        return
    stage = stages[name]
    field = f"stages.{name}"
    for key in ALIKE:
        ours, theirs = getattr(recipe, key), getattr(stage.recipe, key)
        shown = f"{stage.run or stage.recipe.recipe} with {key} {_plain(theirs)}"
        require(ours == theirs, field, shown, f"a run with the same {key}, {_plain(ours)}")
    mine, its = (_options(one) for one in (recipe, stage.recipe))
    shown = f"{stage.run or stage.recipe.recipe} with model_options {_plain(its or None)}"
    require(mine == its, field, shown, f"a run with the same model_options, {_plain(mine or None)}")
    fit_state(model, stage.model.state_dict(), field)


def _options(recipe: Recipe) -> dict[str, Any]:
    return {name: value for name, value in recipe.model_options.items() if name not in FREE}


def _plain(value: object) -> str:
    return "none" if value is None else str(value)
