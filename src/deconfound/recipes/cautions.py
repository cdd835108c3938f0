"""What to distrust in a run whatever comes out of it, one line each; for its record and the log."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from deconfound.data.splits import LARGEST_SHARE
from deconfound.recipes.cafe import AMRGMMSettings
from deconfound.recipes.entries import HostedSettings, ObjectiveSettings, Stage
from deconfound.recipes.registry import entry_of
from deconfound.recipes.resolve import resolve
from deconfound.recipes.schema import Recipe

UNBOUND = "the penalty is 0, so nothing bounds the test function g: its moment may grow as long as it is trained"


def recipe_cautions(recipe: Recipe) -> tuple[str, ...]:
    """A name that says another objective than the run's, and a game whose test function nothing bounds."""
    return (*_other_name(recipe), *_unbound(recipe))


def stage_cautions(recipe: Recipe, stages: Mapping[str, Stage], images: int) -> tuple[str, ...]:
    """Stages that were trained on the run's validation images, and a network begun with under another threat model.

    Args:
        recipe: of the run.
        stages: that it builds on, by name, trained or not.
        images: of the data that all of them are trained on.
    """
    return (*_leaks(recipe, stages, images), *_other_threats(recipe, stages))


def _other_name(recipe: Recipe) -> Iterator[str]:
    usual = resolve({"recipe": recipe.recipe}, data=recipe.data, family=recipe.family)
    named, own = (
        _objectives(one.objective) + (" under a weight perturbation" if one.awp else "") for one in (usual, recipe)
    )
    if named != own:
        yield f"recipe: tables and records call this run {recipe.recipe}, which is {named}, but it trains {own}"


def _objectives(settings: ObjectiveSettings) -> str:
    """The objective's name, and those of the hosts within it."""
    inner = f" on {_objectives(settings.host)}" if isinstance(settings, HostedSettings) else ""
    return f"{settings.name}{inner}"


def _unbound(recipe: Recipe) -> Iterator[str]:
    settings = recipe.objective
    if isinstance(settings, AMRGMMSettings) and settings.penalty == 0 and settings.test == "learned":
        yield UNBOUND


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
