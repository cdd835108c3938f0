"""Host defences from a recipe: MART, HAT with its host, training under noise, the weight perturbation around any."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, cast

from pydantic import Field, SerializeAsAny, field_validator
from torch import nn

from deconfound.core.protocols import AdversarialObjective, Objective
from deconfound.errors import InputError
from deconfound.models.smoothed import Smoothed
from deconfound.objectives import Help, Mart, Smoothing, WeightPerturbed
from deconfound.objectives.help import STANDARD
from deconfound.recipes.entries import HostedSettings, ObjectiveSettings, Stage, inner_attack
from deconfound.training.settings import Settings, Share

if TYPE_CHECKING:
    from deconfound.recipes.schema import Recipe

Weight = Annotated[float, Field(ge=0)]
GAMMA, GAMMA_ELSEWHERE = {"pgd-at": 0.01}, 0.005
"""Length of the weight perturbation by host: the paper's for PGD-AT and, for TRADES and all others, for TRADES."""


class MartSettings(ObjectiveSettings):
    """``weight`` of the KL term, the paper's lambda."""

    weight: Weight = 5.0


class HelpSettings(HostedSettings):
    """The ``host`` whose loss is helped, ``gamma`` of the helper term, ``reach`` of the helper x + reach (x~ - x)."""

    host: SerializeAsAny[ObjectiveSettings] = Field(default="trades", validate_default=True)
    gamma: Weight = 0.5
    reach: Annotated[float, Field(gt=1)] = 2.0

    @field_validator("host", mode="before")
    @classmethod
    def _host_by_name(cls, value: Any) -> ObjectiveSettings:
        return host_settings(value, "objective.host")


class SmoothingSettings(ObjectiveSettings):
    """``sigma`` of the Gaussian noise, in [0, 1] pixels; it is part of the network that is kept."""

    sigma: Annotated[float, Field(gt=0, le=10)] = 0.25


class PerturbationSettings(Settings):
    """Adversarial weight perturbation around the objective, after the share ``warmup`` of the epochs.

    ``gamma`` is its length (null: the paper's, 0.01 around PGD-AT and 0.005 around TRADES and all others).
    """

    gamma: Weight | None = None
    warmup: Share = 0.0


def host_settings(value: Any, field: str, *, tuning: bool = False) -> ObjectiveSettings:
    """Settings of a host from its name or a mapping with it.

    Args:
        value: name or mapping.
        field: for messages.
        tuning: whether a random network and a stage of the host's own will do, as for fine-tuning.

    Raises:
        InputError: no such host, or none that has an adversarial example, predicts the same each time and needs no
            stage (``tuning``: does not begin at one).
    """
    from deconfound.recipes.registry import OBJECTIVES, objective_settings

    if isinstance(value, ObjectiveSettings):
        return value
    found = objective_settings({"name": value} if isinstance(value, str) else value)
    fitting = {name: one for name, one in OBJECTIVES.items() if one.adversarial and not one.begins_at}
    good = [name for name, one in fitting.items() if tuning or not (one.stochastic or one.stages)]
    if found.name not in good:
        raise InputError(field, found.name, f"an objective with an adversarial example: {', '.join(sorted(good))}")
    return found


def mart(model: nn.Module, recipe: Recipe) -> Objective:
    """MART."""
    settings = recipe.objective
    assert isinstance(settings, MartSettings)
    return Mart(model, inner_attack(recipe), settings.weight, recipe.eps_warmup)


def helped(model: nn.Module, recipe: Recipe, stages: Mapping[str, Stage]) -> Objective:
    """HAT around its host, with the network of the stage ``standard``."""
    settings = recipe.objective
    assert isinstance(settings, HelpSettings)
    return Help(host_of(model, recipe, settings.host), stages[STANDARD].model, settings.gamma, settings.reach)


def host_of(
    model: nn.Module,
    recipe: Recipe,
    host: ObjectiveSettings,
    stages: Mapping[str, Stage] | None = None,
    awp: PerturbationSettings | None = None,
) -> AdversarialObjective:
    """A host of the recipe's objective, under its threat model; around it the given weight perturbation alone."""
    from deconfound.recipes.registry import build_objective

    alone = recipe.model_copy(update={"objective": host, "awp": awp, "stages": {}})
    return cast(AdversarialObjective, build_objective(model, alone, stages))


def smoothing(model: nn.Module, recipe: Recipe) -> Objective:
    """Cross entropy under Gaussian noise."""
    return Smoothing(model)


def under_noise(network: nn.Module, recipe: Recipe) -> nn.Module:
    """The network, behind the noise that its objective trains it under, if any."""
    settings = recipe.objective
    return Smoothed(network, settings.sigma) if isinstance(settings, SmoothingSettings) else network


def with_perturbation(recipe: Recipe) -> Recipe:
    """The recipe with the length of its weight perturbation in it, the paper's for the host where nobody names one."""
    if recipe.awp is None or recipe.awp.gamma is not None:
        return recipe
    host = recipe.objective
    while isinstance(host, HostedSettings):
        host = host.host
    gamma = GAMMA.get(host.name, GAMMA_ELSEWHERE)
    return recipe.model_copy(update={"awp": recipe.awp.model_copy(update={"gamma": gamma})})


def weights_perturbed(objective: Objective, settings: PerturbationSettings | None) -> Objective:
    """The objective, under the weight perturbation that a recipe asks for."""
    if settings is None:
        return objective
    assert settings.gamma is not None  # resolved
    return WeightPerturbed(cast(AdversarialObjective, objective), settings.gamma, settings.warmup)
