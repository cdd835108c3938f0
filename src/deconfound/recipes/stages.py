"""What a recipe builds on: stages trained into RUN/stages/NAME first, or finished runs given in their place."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deconfound.core.protocols import ImageSource
from deconfound.errors import InputError, require
from deconfound.recipes.entries import Stage
from deconfound.recipes.loading import Loaded, load_run
from deconfound.recipes.players import DIGEST, restored, untrained
from deconfound.recipes.registry import entry_of, stages_of
from deconfound.recipes.resolve import merged, read_spec, resolve
from deconfound.recipes.schema import Recipe
from deconfound.records import StageUse
from deconfound.training.checks import check_training

FOLDER = "stages"
_logger = logging.getLogger(__name__)
INHERITED = (
    "model",
    "model_options",
    "normalisation",
    "sampler",
    "image_size",
    "channels_last",
    "augmentation",
    "norm",
    "eps",
    "seed",
    "precision",
)
"""What a stage has in common with the recipe that builds on it, and what is held out, unless it says otherwise."""


@dataclass(frozen=True, kw_only=True)
class Ground:
    """What a run and its stages share: the training images and their classes."""

    source: ImageSource
    class_names: tuple[str, ...]
    shape: tuple[int, int, int]
    digest: str


@dataclass(frozen=True)
class Plan:
    """How one stage comes about: ``recipe`` is trained, or the finished run ``given`` is taken (then there is none).

    ``usual`` is the recipe that is trained unless somebody says otherwise.
    """

    name: str
    recipe: Recipe | None = None
    given: str = ""
    usual: str = ""


def planned(recipe: Recipe, run: Path | None) -> tuple[Plan, ...]:
    """The stages of a complete recipe in their order, each with a complete recipe of its own.

    A stage that builds on an earlier one takes that, whether it is trained or given.

    Args:
        recipe: of the run that builds on them.
        run: its folder, if any.

    Raises:
        InputError: a stage's recipe that does not exist, or a setting of it that does not fit.
    """
    found: list[Plan] = []
    places: dict[str, str] = {}
    for name, usual in stages_of(recipe.objective).items():
        how = recipe.stages[name]
        if isinstance(how, str):
            found.append(Plan(name, given=how, usual=usual))
            places[name] = how
        else:
            found.append(Plan(name, _resolved(name, how, recipe, places)))
            places[name] = "" if run is None else str(run / FOLDER / name)
    return tuple(found)


def _resolved(name: str, how: Mapping[str, Any], recipe: Recipe, earlier: Mapping[str, str]) -> Recipe:
    common = recipe.model_dump(mode="json", include=set(INHERITED))
    common["selection"] = {"size": recipe.selection.size}  # the same images are held out from all
    if "norm" in how:  # another norm has another radius
        del common["eps"]
    try:
        spec = merged(common, read_spec(how))
        if isinstance(spec["selection"], Mapping) and spec["selection"].get("size") == 0:  # nothing to choose by
            spec = merged({"selection": {"keep": "last"}}, spec)
        found = resolve(spec, data=recipe.data, family=recipe.family)
        rule = "what the run that builds on it has"
        require(found.image_size == recipe.image_size, "image_size", found.image_size, rule)
        shared = {one: earlier[one] for one in stages_of(found.objective) if one in earlier}
        return found.model_copy(update={"stages": {**found.stages, **shared}})
    except InputError as error:
        raise InputError(f"stages.{name}: {error.field}", error.value, error.rule) from None


def foreseen(plans: Iterable[Plan], ground: Ground, ready: Mapping[str, Stage], world: int = 1) -> dict[str, Stage]:
    """The stages before anything is trained: those that are ready or given, and networks still to be trained.

    What is wrong with a given run or a setting shows here.

    Args:
        plans: in order.
        ground: what they share.
        ready: stages that are finished already.
        world: processes that train.

    Raises:
        InputError: a given run that does not exist, is not finished, saw other data or classes, or was itself built on
            another stage than the one beside it; batches or averaging that do not suit a stage.
    """
    found: dict[str, Stage] = {}
    for plan in plans:
        if plan.name in ready:
            found[plan.name] = ready[plan.name]
        elif plan.recipe is None:
            found[plan.name] = finished(plan.given, f"stages.{plan.name}", ground, found)
            _say_if_odd(plan, found[plan.name].recipe)
        else:
            found[plan.name] = stage = untrained(plan.recipe, len(ground.class_names), ground.shape, found)
            _check_training(plan.name, stage, len(ground.source), world)
    return found


def _check_training(name: str, stage: Stage, count: int, world: int) -> None:
    try:
        check_training(stage.players, stage.recipe, count, world)
    except InputError as error:
        raise InputError(f"stages.{name}: {error.field}", error.value, error.rule) from None


def _say_if_odd(plan: Plan, recipe: Recipe) -> None:
    """A network that was not trained adversarially where one that was is usual, or the other way round, is allowed."""
    draft = resolve(read_spec(plan.usual), data=recipe.data, family=recipe.family)
    theirs, usual = (entry_of(one.objective.name).adversarial for one in (recipe, draft))
    if theirs != usual:
        without = "with" if theirs else "without"
        _logger.warning(
            "stages.%s: %s was trained by %s, %s adversarial examples; usual is %s",
            plan.name, plan.given, recipe.recipe, without, plan.usual,
        )  # fmt: skip


def finished(run: str, field: str, ground: Ground, beside: Mapping[str, Stage]) -> Stage:
    """A finished run as a stage.

    Raises:
        InputError: as for ``foreseen``.
    """
    try:
        loaded = load_run(run)
        recipe = loaded.recipe
        assert recipe is not None  # load_run refuses weights without one
        players = restored(run, loaded, recipe).players()
    except InputError as error:
        raise InputError(field, run, f"the folder of a finished run ({error})") from None
    _check_ground(run, field, loaded, ground)
    for name, facts in ((loaded.metadata or {}).get("stages") or {}).items():
        if name in beside and facts[DIGEST] != beside[name].digest:
            shown = beside[name].run or "one still to be trained"
            raise InputError(
                field, run, f"a run built on the same {name} as this one, {shown} (give both with --{name})"
            )
    return Stage(recipe=recipe, model=loaded.model, players=players, shape=ground.shape, digest=loaded.digest, run=run)


def _check_ground(run: str, field: str, loaded: Loaded, ground: Ground) -> None:
    theirs, ours = (loaded.class_names or (), loaded.shape), (ground.class_names, ground.shape)
    if theirs != ours:
        shown, rule = (f"{len(k)} classes {', '.join(k[:3])}... and images {shape}" for k, shape in (theirs, ours))
        raise InputError(field, f"{run} with {shown}", f"a run with the same classes and images, {rule}")
    if (loaded.metadata or {}).get("data_digest") != ground.digest:
        data = loaded.recipe.data if loaded.recipe else ""
        raise InputError(field, f"{run}, trained on {data}", f"a run trained on the same images, {ground.source.name}")


def completed(
    plans: Iterable[Plan],
    known: Mapping[str, Stage],
    ready: Mapping[str, Stage],
    train: Callable[[Plan, Mapping[str, Stage]], Stage],
) -> dict[str, Stage]:
    """All stages finished, in order: ready and given ones as they are ``known``, the others by ``train``."""
    found: dict[str, Stage] = {}
    for plan in plans:
        taken = plan.recipe is None or plan.name in ready
        found[plan.name] = known[plan.name] if taken else train(plan, dict(found))
    return found


def uses_of(stages: Mapping[str, Stage]) -> dict[str, StageUse]:
    """What the record of a run says of its stages."""
    return {
        name: StageUse(
            run=stage.run,
            recipe=stage.recipe.recipe,
            recipe_digest=stage.recipe.digest(),
            model_digest=stage.digest,
            epochs=stage.recipe.epochs,
            seed=stage.recipe.seed,
        )
        for name, stage in stages.items()
    }
