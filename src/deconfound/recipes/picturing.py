"""Pictures of a run, put together from its network, a cut, an attack and the kinds of features that the run has."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from deconfound.analysis import Matching, make_pictures
from deconfound.analysis.pictures import TARGETS, Target
from deconfound.analysis.saliency import load_library
from deconfound.attacks import PGD
from deconfound.recipes.cutting import FlatSplit, cut_run
from deconfound.recipes.loading import Loaded
from deconfound.recipes.schema import Recipe
from deconfound.records import PicturesRecord

if TYPE_CHECKING:
    from deconfound.recipes.analysing import Look, Scene

STEPS = 20

KindsOfFeatures = Callable[["Look", Loaded, Recipe, FlatSplit], Mapping[str, Target]]
"""(look, network, recipe, its cut) -> further kinds of features by name; empty for a run that has none."""

FURTHER: tuple[KindsOfFeatures, ...] = ()
"""What methods add to natural and adversarial features; features are flat there, as ``FlatSplit`` gives them."""


def pictures_analysis(look: Look, loaded: Loaded, recipe: Recipe) -> Callable[[Scene], PicturesRecord] | None:
    """What pictures features; None for a network without a feature split.

    Raises:
        InputError: a layer that does not exist, no ``captum``.
    """
    model = cut_run(look.run, loaded, look.layer)
    if model is None:
        return None
    load_library()
    targets = dict(TARGETS)
    for further in FURTHER:
        targets |= further(look, loaded, recipe, model)

    def work(scene: Scene) -> PicturesRecord:
        return make_pictures(
            model,
            scene.test,
            scene.index,
            PGD(recipe.threat, steps=STEPS, keep="last"),
            scene.origin,
            targets=targets,
            matching=matching_of(look),
            layer=look.layer or "",
            seed=look.seed,
            batch_size=look.batch_size,
            monitor=scene.monitor,
        )

    return work


def matching_of(look: Look) -> Matching:
    """How pictures are searched for, by the settings of ``analyze``."""
    return Matching() if look.steps is None else Matching(steps=look.steps)
