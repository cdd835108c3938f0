"""The objective of a run with all its players, as they were in the epoch that was kept."""

from __future__ import annotations

from pathlib import Path

from deconfound.core.protocols import Objective
from deconfound.models import fit_state
from deconfound.recipes.loading import Loaded
from deconfound.recipes.registry import build_objective
from deconfound.recipes.schema import Recipe
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
    objective = build_objective(loaded.model, recipe)
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


def folder_of(run: str | Path) -> RunFolder:
    """The folder of a run that is given by itself or by a file in it."""
    place = Path(run)
    return RunFolder(place if place.is_dir() else place.parent)
