"""What an entry of the registry of objectives is made of."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pydantic import SerializeAsAny
from torch import nn

from deconfound.attacks import PGD
from deconfound.core.protocols import Attack, Objective
from deconfound.errors import InputError
from deconfound.training.settings import Settings

if TYPE_CHECKING:
    from deconfound.recipes.schema import Recipe


class ObjectiveSettings(Settings):
    """Settings of an objective; ``name`` says which."""

    name: str


class HostedSettings(ObjectiveSettings):
    """Settings of an objective around another one, its ``host``."""

    host: SerializeAsAny[ObjectiveSettings]


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A finished stage of a run, as the objectives of later ones take it; several may, so none trains it further.

    Attributes:
        recipe: that it was trained with.
        model: its network, in eval mode.
        players: of its objective, the network among them.
        shape: of its images, (C, H, W).
        digest: hash of the network's weights.
        run: its folder; empty where it has none.
    """

    recipe: Recipe
    model: nn.Module
    players: Mapping[str, nn.Module]
    shape: tuple[int, int, int]
    digest: str = ""
    run: str = ""


@dataclass(frozen=True)
class Entry:
    """An objective in the registry: its settings, how it is built, and whether it crafts adversarial examples.

    ``stages`` names what must be trained before it, in this order, with the recipe that trains each unless the user
    says another; ``build`` then takes them as a third argument, by name. The model starts from the weights of the one
    named in ``begins_at``. ``places_awp`` says that ``build`` itself puts the recipe's weight perturbation where it
    belongs; elsewhere it goes around the objective. ``views`` says that it draws the views of a network behind a
    sampler afresh for every step, or only looks at their expectation; hosts say it for what is around them.
    """

    about: str
    settings: type[ObjectiveSettings]
    build: Callable[..., Objective]
    adversarial: bool = True
    stochastic: bool = False
    stages: Mapping[str, str] = field(default_factory=dict)
    begins_at: str = ""
    places_awp: bool = False
    views: bool = False


def single_step(recipe: Recipe, make: Callable[..., Attack], kind: str, several: str) -> Attack:
    """A one-step attack as an inner maximiser.

    Args:
        recipe: its threat model, step size and mode.
        make: the attack's class.
        kind: how a message calls it.
        several: what a message names for more steps.

    Raises:
        InputError: a recipe with more than one step.
    """
    if recipe.steps != 1:
        raise InputError("steps", recipe.steps, f"1 for {kind}, which takes a single step ({several} takes several)")
    return make(recipe.threat, step_size=recipe.step_size, keep="last", mode=recipe.attack_mode)


def inner_attack(recipe: Recipe, **changes: Any) -> Attack:
    """The PGD that a recipe describes, as an inner maximiser: every point takes every step."""
    return PGD(
        recipe.threat,
        steps=recipe.steps,
        step_size=recipe.step_size,
        keep="last",
        mode=recipe.attack_mode,
        **changes,
    )
