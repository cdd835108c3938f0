"""Defences without adversarial examples from a recipe: mixup and BPFC."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field
from torch import nn

from deconfound.core.protocols import Objective
from deconfound.functional.quantisation import LEAST, MOST
from deconfound.objectives.bpfc import BPFC, GROWTH, MILESTONES
from deconfound.objectives.mixup import Mixup
from deconfound.recipes.entries import ObjectiveSettings

if TYPE_CHECKING:
    from deconfound.recipes.schema import Recipe


class MixupSettings(ObjectiveSettings):
    """``alpha`` of the Beta distribution that weights are drawn from."""

    alpha: Annotated[float, Field(gt=0)] = 1.0


class BPFCSettings(ObjectiveSettings):
    """``bits`` are dropped; ``weight`` of the consistency term grows by ``growth`` at ``milestones`` (shares)."""

    bits: Annotated[int, Field(ge=LEAST, le=MOST)] = 5
    weight: Annotated[float, Field(ge=0)] = 1.0
    growth: Annotated[float, Field(gt=0)] = GROWTH
    milestones: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = MILESTONES


def mixup(model: nn.Module, recipe: Recipe) -> Objective:
    """Mixup."""
    settings = recipe.objective
    assert isinstance(settings, MixupSettings)
    return Mixup(model, settings.alpha)


def bpfc(model: nn.Module, recipe: Recipe) -> Objective:
    """Bit plane feature consistency."""
    settings = recipe.objective
    assert isinstance(settings, BPFCSettings)
    return BPFC(model, settings.bits, settings.weight, settings.growth, settings.milestones)
