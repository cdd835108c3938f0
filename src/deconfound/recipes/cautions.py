"""What to distrust in a run because of the stages that it builds on, one line each; for its record and the log."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from deconfound.data.splits import LARGEST_SHARE
from deconfound.recipes.entries import Stage
from deconfound.recipes.registry import entry_of
from deconfound.recipes.schema import Recipe


def stage_cautions(recipe: Recipe, stages: Mapping[str, Stage], images: int) -> tuple[str, ...]:
    """Stages that were trained on the run's validation images, and a network begun with under another threat model.

    Args:
        recipe: of the run.
        stages: that it builds on, by name, trained or not.
        images: of the data that all of them are trained on.
    """
    return (*_leaks(recipe, stages, images), *_other_threats(recipe, stages))


def _leaks(recipe: Recipe, stages: Mapping[str, Stage], images: int) -> Iterator[str]:
    for name, stage in stages.items():
        if _held_out(recipe, images) and not _holds_out_too(stage.recipe, recipe, images):
            theirs, ours = (
                f"seed {one.seed} and selection.size {one.selection.size}" for one in (stage.recipe, recipe)
            )
            chosen = ", and weights are selected on them" if recipe.selection.keep == "best" else ""
            yield (
                f"stages.{name}: trained on validation images of this run (its {theirs}, this run's {ours}), "
                f"so validation figures are too high{chosen}"
            )


def _other_threats(recipe: Recipe, stages: Mapping[str, Stage]) -> Iterator[str]:
    name = entry_of(recipe.objective.name).begins_at
    if name not in stages:
        return
    begun = stages[name].recipe
    if entry_of(begun.objective.name).adversarial and begun.threat != recipe.threat:
        yield f"stages.{name}: trained under {begun.threat}, this run under {recipe.threat}"


def _held_out(recipe: Recipe, images: int) -> int:
    return min(recipe.selection.size, images // LARGEST_SHARE)


def _holds_out_too(theirs: Recipe, ours: Recipe, images: int) -> bool:
    """Whether theirs holds out all that ours does: of one seed, fewer images are the first of more."""
    return theirs.seed == ours.seed and _held_out(theirs, images) >= _held_out(ours, images)
