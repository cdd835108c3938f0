"""The content/style analysis of a run, put together from its network, its style branch and an attack."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, cast

from torch import nn

from deconfound.analysis import StyleParts, analyse_style, bases_of
from deconfound.analysis.observing import SplitClassifier
from deconfound.attacks import PGD
from deconfound.errors import require
from deconfound.models.style_branch import StyleBranch
from deconfound.objectives.styled import linear_layer
from deconfound.recipes.loading import Loaded
from deconfound.recipes.players import restored, unread
from deconfound.recipes.schema import Recipe
from deconfound.records import StyleRecord

if TYPE_CHECKING:
    from deconfound.recipes.analysing import Look, Scene

STEPS = 20
PLAYER = "style"


def style_analysis(look: Look, loaded: Loaded, recipe: Recipe) -> Callable[[Scene], StyleRecord] | None:
    """What analyses content and style of a run; None for a run without a style branch.

    Raises:
        InputError: the run's players are missing or do not fit, or its style branch has seen no image.
    """
    if not isinstance(unread(loaded, recipe).players().get(PLAYER), StyleBranch):
        return None
    players = restored(look.run, loaded, recipe).players()
    branch = players[PLAYER]
    assert isinstance(branch, StyleBranch)
    seen = int(branch.content.count.sum())
    require(seen > 0, "run", look.run, "a run whose style branch has seen images; this one was not trained")
    parts = _parts(players["model"], branch)
    notes = (_predictor_note(branch),)

    def work(scene: Scene) -> StyleRecord:
        return analyse_style(
            parts,
            scene.test,
            scene.index,
            PGD(recipe.threat, steps=STEPS, keep="last"),
            replace(scene.origin, notes=(*scene.origin.notes, *notes)),
            seed=look.seed,
            batch_size=look.batch_size,
            monitor=scene.monitor,
        )

    return work


def _parts(model: nn.Module, branch: StyleBranch) -> StyleParts:
    weight, covariance = linear_layer(model).weight.detach(), branch.content.covariance[0]
    own = {branch.kind: branch.basis(weight)}  # to the last digit what training used
    return StyleParts(
        model=cast(SplitClassifier, model),
        weight=weight,
        covariance=covariance,
        bases=bases_of(weight, covariance, branch.start) | own,
        trained=branch.kind,
        predict=branch.plain_logits,
        modules=(branch,),
    )


def _predictor_note(branch: StyleBranch) -> str:
    return f"the style predictor g was trained on the {branch.kind} basis only; on the other it reads what it never saw"
