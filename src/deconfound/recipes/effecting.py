"""The causal effects of a run of AMR-GMM or CAFE, put together from its networks, h, g and an attack."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from torch import nn

from deconfound.analysis import EffectParts, analyse_effects
from deconfound.attacks import PGD, causal_inversion
from deconfound.errors import InputError
from deconfound.models import CiiV, ExpectedSurrogate
from deconfound.objectives import AMRGMM
from deconfound.recipes.cafe import AMR, SHARE, AMRGMMSettings, CafeSettings
from deconfound.recipes.effect_attacks import attacks_of
from deconfound.recipes.loading import Loaded, load_run
from deconfound.recipes.players import DIGEST, folder_of, restored
from deconfound.recipes.resolve import radius_linf
from deconfound.recipes.schema import Recipe
from deconfound.recipes.stages import FOLDER
from deconfound.records import EffectsRecord, TrainingRecord

if TYPE_CHECKING:
    from deconfound.recipes.analysing import Look, Scene


def effects_analysis(look: Look, loaded: Loaded, recipe: Recipe) -> Callable[[Scene], EffectsRecord] | None:
    """What analyses causal effects; None for a run without h.

    Raises:
        InputError: a run of CAFE whose stage ``amr``, which alone has g, is not found where it was.
    """
    found, settings = game_of(look.run, loaded, recipe), recipe.objective
    if found is None:
        return None
    game, played = found
    parts = EffectParts(
        causal=game.causal,
        test_function=game.g,
        climbed=game.climbed,
        defence=_ordinary(loaded.model) if isinstance(settings, CafeSettings) else None,
        game=played.model_dump(mode="json"),
        moments=game.moment,
    )

    def work(scene: Scene) -> EffectsRecord:
        return analyse_effects(
            parts,
            scene.test,
            scene.index,
            attacks_of(look.attack, recipe.threat),
            _inversion(recipe),
            scene.origin,
            seed=look.seed,
            batch_size=look.batch_size,
            monitor=scene.monitor,
        )

    return work


def game_of(run: str, loaded: Loaded, recipe: Recipe) -> tuple[AMRGMM, AMRGMMSettings] | None:
    """AMR-GMM as it was played for a run, with h, g and the frozen network, and its settings; None for other runs.

    Raises:
        InputError: a run of CAFE whose stage ``amr``, which alone has g, is not found where it was.
    """
    settings = recipe.objective
    if not isinstance(settings, AMRGMMSettings | CafeSettings):
        return None
    device = next((tensor.device for tensor in loaded.model.state_dict().values()), None)
    place, game_run = (Path(run), loaded) if isinstance(settings, AMRGMMSettings) else _stage(run, loaded)
    assert game_run.recipe is not None  # load_run refuses weights without one
    game_run.model.to(device)
    game, played = restored(place, game_run, game_run.recipe), game_run.recipe.objective
    assert isinstance(game, AMRGMM)
    assert isinstance(played, AMRGMMSettings)
    return game, played


def _stage(run: str, loaded: Loaded) -> tuple[Path, Loaded]:
    """The run of AMR-GMM that a run of CAFE was built on: below it, or where its record says."""
    folder = folder_of(run)
    digest = ((loaded.metadata or {}).get("stages") or {}).get(AMR, {}).get(DIGEST)
    places = [folder.path / FOLDER / AMR]
    if folder.record.is_file():
        places.append(Path(TrainingRecord.read(folder.record).stages[AMR].run or "."))
    for place in places:
        if (place / "model.safetensors").is_file():
            found = load_run(place)
            if found.digest == digest:
                return place, found
    shown = " or ".join(map(str, places))
    raise InputError("run", run, f"a run whose stage {AMR}, which alone has g, still lies at {shown}")


def _inversion(recipe: Recipe) -> PGD:
    """The run's own causal inversion; of a run of AMR-GMM, which has none, the one that CAFE would have."""
    settings = recipe.objective
    if not isinstance(settings, CafeSettings):
        return causal_inversion(SHARE * radius_linf(recipe))
    assert settings.gamma is not None  # resolved
    return causal_inversion(settings.gamma, settings.inversion_steps)


def _ordinary(model: nn.Module) -> nn.Module:
    return ExpectedSurrogate(model) if isinstance(model, CiiV) else model
