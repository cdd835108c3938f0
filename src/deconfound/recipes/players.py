"""The objective of a run with all its players, as they were in the epoch that was kept."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deconfound.core.guards import seeded
from deconfound.core.protocols import Objective
from deconfound.models import fit_state
from deconfound.recipes.entries import Stage
from deconfound.recipes.loading import Loaded, build_model
from deconfound.recipes.registry import build_objective, stages_of
from deconfound.recipes.schema import Recipe, validated
from deconfound.store import RunFolder, read_weights


def restored(run: str | Path, loaded: Loaded, recipe: Recipe) -> Objective:
    """The objective of a run, its players other than the network read from the run's folder, in eval mode.

    Args:
        run: folder of the run, or a file in it.
        loaded: its network.
        recipe: its recipe.

    Raises:
        InputError: the run's folder lacks its players, or they do not fit.
    """
    objective = unread(loaded, recipe)
    others = {name: player for name, player in objective.players().items() if player is not loaded.model}
    if others:
        device = next((t.device for t in loaded.model.state_dict().values()), None)
        file = folder_of(run).players
        tensors, _ = read_weights(file, "players")
        for name, player in others.items():
            start = f"{name}/"
            own = {key.removeprefix(start): value for key, value in tensors.items() if key.startswith(start)}
            fit_state(player, own, f"{file}: {name}")
            player.to(device).eval()
    return objective


def unread(loaded: Loaded, recipe: Recipe) -> Objective:
    """The objective of a run around its network, the other players not yet read."""
    stages: dict[str, Stage] = {}
    known = (loaded.metadata or {}).get("stages") or {}
    for name in (name for name in stages_of(recipe.objective) if name in known):
        assert loaded.class_names is not None  # stages are written beside them
        assert loaded.shape is not None
        plain = {key: value for key, value in known[name].items() if key != DIGEST}
        stages[name] = untrained(validated(plain, f"stages.{name}"), len(loaded.class_names), loaded.shape, stages)
    return build_objective(loaded.model, recipe, stages)


def untrained(recipe: Recipe, classes: int, shape: tuple[int, int, int], earlier: Mapping[str, Stage]) -> Stage:
    """A stage as its training begins, on the earlier ones that it needs."""
    with seeded(recipe.seed):
        model = build_model(recipe, classes, shape).eval()
        objective = build_objective(model, recipe, earlier)
    return Stage(recipe=recipe, model=model, players=objective.players(), shape=shape)


DIGEST = "weights"


def facts_of(stages: Mapping[str, Stage]) -> dict[str, Any]:
    """What the weights of a run say of its stages: recipe and digest of each, enough for ``restored``."""
    return {name: stage.recipe.identity() | {"data": "", DIGEST: stage.digest} for name, stage in stages.items()}


def folder_of(run: str | Path) -> RunFolder:
    """The folder of a run that is given by itself or by a file in it."""
    place = Path(run)
    return RunFolder(place if place.is_dir() else place.parent)
