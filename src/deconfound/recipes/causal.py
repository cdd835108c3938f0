"""CausalAdv from a recipe: its settings, its style branch and its inner attack."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field
from torch import nn

from deconfound.attacks.losses import kl_to_reference
from deconfound.core.protocols import Objective
from deconfound.models.style_branch import StyleBranch
from deconfound.objectives.causaladv import BETA, CausalAdv, Variant
from deconfound.objectives.styled import StyleLoss, linear_layer
from deconfound.recipes.entries import ObjectiveSettings, inner_attack

if TYPE_CHECKING:
    from deconfound.recipes.schema import Recipe

Weight = Annotated[float, Field(ge=0)]


class CausalAdvSettings(ObjectiveSettings):
    """Weights of the style term (``alpha``) and of the adversarial content term (``beta``, null: 1 for m, 6 for t).

    ``ratio`` is the strength of the marginalisation over style, ``clean_weight`` weighs an additional clean cross
    entropy; ``basis`` is exact or the authors' deflation; ``covariance`` the form of the covariances per class and
    ``covariance_momentum`` how much a batch weighs in them at least (null: all of history alike).
    """

    alpha: Weight = 1.0
    beta: Weight | None = None
    ratio: Weight = 1.0
    clean_weight: Weight = 0.0
    basis: Literal["exact", "deflation"] = "exact"
    covariance: Literal["auto", "full", "low-rank", "diagonal"] = "auto"
    covariance_momentum: Annotated[float, Field(gt=0, le=1)] | None = None


def causaladv_m(model: nn.Module, recipe: Recipe) -> Objective:
    """The variant with adversarial cross entropy."""
    return _causaladv(model, recipe, "m")


def causaladv_t(model: nn.Module, recipe: Recipe) -> Objective:
    """The variant with clean cross entropy and a KL."""
    return _causaladv(model, recipe, "t")


def _causaladv(model: nn.Module, recipe: Recipe, variant: Variant) -> Objective:
    settings = recipe.objective
    assert isinstance(settings, CausalAdvSettings)
    beta = BETA[variant] if settings.beta is None else settings.beta
    return CausalAdv(
        model,
        _branch(model, settings, recipe.seed),
        inner_attack(recipe, **_climb(variant, beta, settings.alpha)),
        variant,
        alpha=settings.alpha,
        beta=beta,
        ratio=settings.ratio,
        clean_weight=settings.clean_weight,
        warmup=recipe.eps_warmup,
    )


def _branch(model: nn.Module, settings: CausalAdvSettings, seed: int) -> StyleBranch | None:
    if settings.alpha == 0:
        return None
    last = linear_layer(model)
    return StyleBranch(
        last.in_features,
        last.out_features,
        settings.basis,
        settings.covariance,
        settings.covariance_momentum,
        seed,
    )


def _climb(variant: Variant, beta: float, alpha: float) -> dict[str, Any]:
    """Loss and start of the inner attack; without style those of PGD-AT and of TRADES."""
    if variant == "t":
        loss: Any = kl_to_reference if alpha == 0 else StyleLoss("kl", beta, alpha)
        return {"loss": loss, "start": "gaussian"}
    return {} if alpha == 0 else {"loss": StyleLoss("cross_entropy", beta, alpha)}
