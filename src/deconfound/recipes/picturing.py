"""Pictures of a run, put together from its network, a cut, an attack and the kinds of features that the run has."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from deconfound.analysis import Matching, kind_residuals, make_pictures
from deconfound.analysis.pictures import TARGETS, Target
from deconfound.analysis.saliency import load_library
from deconfound.attacks import PGD
from deconfound.core.guards import evaluating
from deconfound.models import CausalFeatureMap
from deconfound.objectives import AMRGMM
from deconfound.recipes.cafe import AMRGMMSettings
from deconfound.recipes.cutting import FlatSplit, cut_run
from deconfound.recipes.effecting import game_of
from deconfound.recipes.loading import Loaded
from deconfound.recipes.schema import Recipe
from deconfound.records import PicturesRecord

if TYPE_CHECKING:
    from deconfound.recipes.analysing import Look, Scene

STEPS = 20
CAUSAL_KINDS = ("adversarial_causal", "counterfactual")
"""AC and CF, beside the natural and the adversarial features F_nat and F_adv."""


@dataclass(frozen=True, kw_only=True)
class Pictured:
    """What is pictured: a network, its cut, and kinds of features by name, all of them flat as ``FlatSplit`` has them.

    Attributes:
        model: cut in two.
        targets: kinds of features.
        layer: of the cut, for the record.
        notes: what the reader must know of the network.
    """

    model: FlatSplit
    targets: Mapping[str, Target]
    layer: str = ""
    notes: tuple[str, ...] = ()


KindsOfFeatures = Callable[["Look", Loaded, Recipe], Pictured | None]
"""(look, network, recipe) -> what is pictured of a run that has further kinds of features; None for others."""


def causal_features(look: Look, loaded: Loaded, recipe: Recipe) -> Pictured | None:
    """F_nat, F_adv, AC = F_nat + h(Z) and CF = F_nat + g(Z), where AMR-GMM found h and g; None for other runs.

    These are features of the network that h and g were found in, which AMR-GMM and CAFE keep as it was, at its cut.

    Raises:
        InputError: a run of CAFE whose stage ``amr`` is not found where it was.
    """
    found = game_of(look.run, loaded, recipe)
    if found is None:
        return None
    game, played = found
    assert isinstance(game.causal, CausalFeatureMap)
    assert loaded.shape is not None  # its file says the stages, and the shape beside them
    device = next(iter(loaded.model.state_dict().values())).device
    with evaluating(game.causal.cut), torch.no_grad():
        like = game.causal.features(torch.zeros(1, *loaded.shape, device=device))
    own = isinstance(recipe.objective, AMRGMMSettings)
    note = "the network pictured is the stage base, where h and g are at home; --layer pictures the run's own"
    return Pictured(
        model=FlatSplit(game.causal.cut, like).eval(),
        targets=dict(TARGETS) | {kind: _residual(game, kind, like) for kind in CAUSAL_KINDS},
        layer=played.layer or "last feature map",
        notes=() if own else (note,),
    )


def _residual(game: AMRGMM, kind: str, like: Tensor) -> Target:
    """F_nat and what h or g make of Z = F_adv - F_nat."""

    def features(natural: Tensor, adversarial: Tensor) -> Tensor:
        instrument = (adversarial - natural).view(-1, *like.shape[1:])
        return natural + kind_residuals(game.causal, game.g, instrument)[kind].flatten(1)

    return features


FURTHER: tuple[KindsOfFeatures, ...] = (causal_features,)
"""Methods with kinds of features beside natural and adversarial ones; not asked where the user names a layer."""


def pictures_analysis(look: Look, loaded: Loaded, recipe: Recipe) -> Callable[[Scene], PicturesRecord] | None:
    """What pictures features; None for a network without a feature split.

    Raises:
        InputError: a layer that does not exist, no ``captum``.
    """
    found = pictured(look, loaded, recipe)
    if found is None:
        return None
    load_library()

    def work(scene: Scene) -> PicturesRecord:
        return make_pictures(
            found.model,
            scene.test,
            scene.index,
            PGD(recipe.threat, steps=STEPS, keep="last"),
            replace(scene.origin, notes=(*scene.origin.notes, *found.notes)),
            targets=found.targets,
            matching=matching_of(look),
            layer=found.layer,
            seed=look.seed,
            batch_size=look.batch_size,
            monitor=scene.monitor,
        )

    return work


def pictured(look: Look, loaded: Loaded, recipe: Recipe) -> Pictured | None:
    """What is pictured of a run: what its method adds, or its own network with natural and adversarial features."""
    for further in FURTHER if look.layer is None else ():
        if (found := further(look, loaded, recipe)) is not None:
            return found
    model = cut_run(look.run, loaded, look.layer)
    return None if model is None else Pictured(model=model, targets=TARGETS, layer=look.layer or "")


def matching_of(look: Look) -> Matching:
    """How pictures are searched for, by the settings of ``analyze``."""
    return Matching() if look.steps is None else Matching(steps=look.steps)
