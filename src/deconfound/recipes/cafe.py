"""CAFE from a recipe: AMR-GMM on a trained network, causal inoculation of its fine-tuning, and the host alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

import torch
from pydantic import BeforeValidator, Field, SerializeAsAny, field_validator
from torch import nn

from deconfound.attacks import causal_inversion
from deconfound.attacks.inversion import STEP
from deconfound.core.protocols import AdversarialObjective, Objective
from deconfound.core.threat import parse_radius
from deconfound.errors import InputError, require
from deconfound.models import CausalFeatureMap, CiiV, ExpectedSurrogate, causal_net, feature_cut, probed_shape
from deconfound.models.causal_nets import Form
from deconfound.objectives import AMRGMM, Inoculated
from deconfound.objectives.amr_gmm import Source, Test
from deconfound.objectives.cafe import Reference
from deconfound.recipes.entries import HostedSettings, ObjectiveSettings, Stage, inner_attack
from deconfound.recipes.hosts import Weight, host_of, host_settings

if TYPE_CHECKING:
    from deconfound.recipes.schema import Recipe

BASE, AMR = "base", "amr"
SHARE = 0.5
"""Gamma as a share of eps where nobody names it: the paper's for ResNet-18 on CIFAR-10, 4/255 of 8/255.

It is not searched for: what the inversion minimises, KL(p(x + d) || AC), can only fall as the ball grows, so held-out
images would always choose the largest one.
"""


class AMRGMMSettings(ObjectiveSettings):
    """The game in the features of the stage ``base``.

    ``layer`` is where its network is cut (null: at its last feature map), ``form`` that of h and g; ``moment`` and
    ``penalty`` are J and lambda (0: nothing bounds g), ``test`` says whether g learns, stays at its start, or is the
    identity; ``norm`` which inputs h's running BatchNorm statistics are of.
    """

    layer: str | None = None
    form: Form = "auto"
    moment: Literal["log_product", "class_residual"] = "log_product"
    penalty: Annotated[float, Field(ge=0)] = 1.0
    test: Test = "learned"
    norm: Source = "instrument"


class FineTuneSettings(HostedSettings):
    """The ``host`` that continues from the stage ``base``."""

    host: SerializeAsAny[ObjectiveSettings] = Field(default="pgd-at", validate_default=True)

    @field_validator("host", mode="before")
    @classmethod
    def _host_by_name(cls, value: Any) -> ObjectiveSettings:
        return host_settings(value, "objective.host", tuning=True)


class CafeSettings(FineTuneSettings):
    """Also ``weight`` of KL(p(x~) || p(x_causal)), and the causal inversion.

    ``gamma`` is its radius in L-infinity (null: half of eps), ``inversion_steps`` its steps; ``reference`` says which
    network has h in it, the stage's (frozen) or the one that is trained (live); ``detach_target`` whether p(x_causal)
    is constant. The place of the cut and the form of h are those of the stage ``amr``.
    """

    weight: Weight = 1.0
    gamma: Annotated[float, BeforeValidator(lambda value: parse_radius(value, "objective.gamma"))] | None = None
    inversion_steps: Annotated[int, Field(ge=1)] = 10
    reference: Reference = "frozen"
    detach_target: bool = False


def amr_gmm(model: nn.Module, recipe: Recipe, stages: Mapping[str, Stage]) -> Objective:
    """The game, on a network that begins at the stage ``base`` and stays as it is.

    Raises:
        InputError: a radius that grows; a setting that the game refuses.
    """
    settings = recipe.objective
    assert isinstance(settings, AMRGMMSettings)
    require(recipe.eps_warmup == 0, "eps_warmup", recipe.eps_warmup, "0, because the network is trained already")
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    shape = probed_shape(feature_cut(model, settings.layer), torch.zeros(1, *stages[BASE].shape, device=device))
    h, g = (causal_net(shape, settings.form, role=role, seed=recipe.seed).to(device) for role in ("h", "g"))
    return AMRGMM(
        CausalFeatureMap(model, h, settings.layer),
        None if settings.test == "none" else g,
        inner_attack(_stepped(recipe)),
        moments=settings.moment,
        penalty=settings.penalty,
        test=settings.test,
        norm=settings.norm,
        climbed=_climbed(model),
    )


def fine_tuned(model: nn.Module, recipe: Recipe, stages: Mapping[str, Stage]) -> AdversarialObjective:
    """The host, under the recipe's weight perturbation if it has one."""
    settings = recipe.objective
    assert isinstance(settings, FineTuneSettings)
    return host_of(model, _stepped(recipe), settings.host, stages, recipe.awp)


def inoculated(model: nn.Module, recipe: Recipe, stages: Mapping[str, Stage]) -> Objective:
    """Causal inoculation around the host, whose weight perturbation, if any, the inversion and both losses see."""
    settings = recipe.objective
    assert isinstance(settings, CafeSettings)
    assert settings.gamma is not None  # resolved
    return Inoculated(
        fine_tuned(model, recipe, stages),
        trained_map(stages[AMR]),
        causal_inversion(settings.gamma, settings.inversion_steps),
        weight=settings.weight,
        reference=settings.reference,
        detach_target=settings.detach_target,
        climbed=_climbed(model),
    )


def trained_map(stage: Stage) -> CausalFeatureMap:
    """The frozen network with h, as AMR-GMM left them.

    Raises:
        InputError: a stage of another objective.
    """
    settings = stage.recipe.objective
    if not isinstance(settings, AMRGMMSettings):
        raise InputError(f"stages.{AMR}", stage.run or stage.recipe.recipe, f"a run of amr-gmm, not of {settings.name}")
    return CausalFeatureMap(stage.players["model"], stage.players["h"], settings.layer)


def with_gamma(recipe: Recipe, eps: float) -> Recipe:
    """The recipe with the radius of causal inversion in it, half of the family's radius where nobody names it.

    Args:
        recipe: of any objective.
        eps: the radius in L-infinity.
    """
    settings = recipe.objective
    if not isinstance(settings, CafeSettings) or settings.gamma is not None:
        return recipe
    return recipe.model_copy(update={"objective": settings.model_copy(update={"gamma": SHARE * eps})})


def warn_of_radius(recipe: Recipe) -> None:
    """Say once that the inversion looks further than the attack, where it does."""
    settings = recipe.objective
    if isinstance(settings, CafeSettings) and settings.gamma is not None and recipe.norm == "linf":
        causal_inversion(settings.gamma, eps=recipe.eps)


def _stepped(recipe: Recipe) -> Recipe:
    """The recipe with the authors' step, 2.3 eps / steps, where it has none; a single step has its own."""
    if recipe.step_size is not None or recipe.steps == 1:
        return recipe
    return recipe.model_copy(update={"step_size": STEP * recipe.eps / recipe.steps})


def _climbed(model: nn.Module) -> nn.Module | None:
    """What the inversion and AMR-GMM's attack climb: of a network whose own gradient is masked, its expected views."""
    return ExpectedSurrogate(model) if isinstance(model, CiiV) else None
