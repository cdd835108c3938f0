"""Instrument exposure of a run of CiiV, put together from its network and its recipe."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from torch import Tensor

from deconfound.analysis import ExposureParts, analyse_exposure
from deconfound.core.streams import Streams
from deconfound.core.types import Progress
from deconfound.models.ciiv import CiiV
from deconfound.objectives.ciiv import ViewLoss
from deconfound.recipes.ciiv import CiiVSettings
from deconfound.recipes.entries import HostedSettings
from deconfound.recipes.loading import Loaded
from deconfound.recipes.schema import Recipe
from deconfound.records import ExposureRecord

if TYPE_CHECKING:
    from deconfound.recipes.analysing import Look, Scene


def exposure_analysis(look: Look, loaded: Loaded, recipe: Recipe) -> Callable[[Scene], ExposureRecord] | None:
    """What analyses exposure; None for a network that does not look through a sampler."""
    model = loaded.model
    if not isinstance(model, CiiV):
        return None

    def sample(images: Tensor, streams: Streams) -> Tensor:
        return model.sampler(model.sampled_input(images), streams)[0]

    assert model.sampling.centres is not None  # Sampling fills it in
    parts = ExposureParts(
        model=model, sample=sample, policy=model.sampling.centres, consistency=final_consistency(recipe)
    )

    def work(scene: Scene) -> ExposureRecord:
        return analyse_exposure(
            parts,
            scene.test,
            scene.index,
            scene.origin,
            seed=look.seed,
            batch_size=look.batch_size,
            monitor=scene.monitor,
        )

    return work


def final_consistency(recipe: Recipe) -> float:
    """Weight of the consistency loss in the last epoch; 0 for an objective without one."""
    settings = recipe.objective
    while isinstance(settings, HostedSettings):
        settings = settings.host
    if not isinstance(settings, CiiVSettings):
        return 0.0
    rule = ViewLoss(weight=settings.weight, growth=settings.growth, stairs=settings.stairs)
    return rule.weight_at(Progress(epoch=recipe.epochs - 1, epochs=recipe.epochs))
