"""CiiV from a recipe: the sampler in front of the network, the loss of its views, its inner attack."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, model_validator
from torch import nn

from deconfound import models
from deconfound.attacks import FGSM, FGSMRS
from deconfound.core.protocols import Attack, Objective
from deconfound.errors import InputError, require
from deconfound.functional.consistency import Against, Distance
from deconfound.functional.sampling import Acceptance
from deconfound.models.ciiv import CiiV
from deconfound.models.ciiv_surrogates import SampledSurrogate
from deconfound.models.sampler import Centres, Sampling, Scope, Version
from deconfound.objectives.ciiv import STAIRS, CiiVAdversarialTraining, CiiVTraining, ViewLoss
from deconfound.recipes.entries import ObjectiveSettings, inner_attack, single_step
from deconfound.training.settings import Settings, Share

if TYPE_CHECKING:
    from deconfound.recipes.schema import Recipe

Weight = Annotated[float, Field(ge=0)]


class SamplerSettings(Settings):
    """The sampler in front of the network; see ``models.sampler.Sampling``."""

    version: Version = "v2"
    loops: int = 9
    samples: int = 3
    amplitude: float = 0.9
    centres: Centres | None = None
    points: tuple[int, int, int] | None = None
    mask: Acceptance = "power"
    mask_scope: Scope = "example"
    per_centre_norm: bool = False
    memory: int | None = None

    @model_validator(mode="after")
    def _fits(self) -> SamplerSettings:
        try:
            self.sampling()
        except InputError as error:
            raise InputError(f"sampler.{error.field}", error.value, error.rule) from None
        return self

    def sampling(self) -> Sampling:
        """As the network takes it."""
        return Sampling(**self.model_dump())


class CiiVSettings(ObjectiveSettings):
    """Weights of the views' cross entropy and of their consistency, which grows at each of the ``stairs``.

    ``against`` null: the other views with the sampler's second version, all views with its first. ``mixup`` is the
    alpha of mixup on the images before they are sampled, 0 for none.
    """

    ce_weight: Weight = 1.0
    weight: Weight = 0.1
    growth: Weight = 10.0
    stairs: tuple[Share, ...] = STAIRS
    distance: Distance = "smooth_l1"
    against: Against | None = None
    mixup: Weight = 0.0


class CiiVAdversarialSettings(CiiVSettings):
    """Also the inner attack, and the gradient it climbs: with the expected slope (surrogate A), or the raw one.

    ``wide`` has the slope at saturated pixels too. ``attack_loops`` is how often the model looks while it is attacked,
    null for as often as it predicts: the attack is most of what a step costs, and the authors' looks once.
    """

    attack: Literal["pgd", "fgsm", "fgsm-rs"] = "pgd"
    gradient: Literal["expected", "wide", "raw"] = "expected"
    attack_loops: Annotated[int, Field(ge=1)] | None = None


def sampled_network(recipe: Recipe, classes: int, shape: tuple[int, int, int], settings: SamplerSettings) -> nn.Module:
    """The network that a recipe names behind its sampler; the normalisation goes in front."""
    sampling = settings.sampling()
    options: Mapping[str, Any] = recipe.model_options
    inner = models.build(recipe.model, classes=classes, channels=sampling.channels(shape[0]), size=shape[1:], **options)
    levels = recipe.normalisation
    mean, std = (None, None) if levels is None else (levels.mean, levels.std)
    return CiiV(inner, sampling, channels=shape[0], size=shape[1:], mean=mean, std=std)


def ciiv(model: nn.Module, recipe: Recipe) -> Objective:
    """Training on clean (or mixed) images."""
    return CiiVTraining(model, _loss(recipe))


def ciiv_at(model: nn.Module, recipe: Recipe) -> Objective:
    """Training on adversarial images."""
    settings = recipe.objective
    assert isinstance(settings, CiiVAdversarialSettings)
    climbed = _climbed(model, settings)
    return CiiVAdversarialTraining(model, _attack(settings.attack, recipe), climbed, _loss(recipe), recipe.eps_warmup)


def _climbed(model: nn.Module, settings: CiiVAdversarialSettings) -> nn.Module:
    """What the inner attack climbs: the model or its surrogate A, with as many views as are asked for."""
    loops, raw = settings.attack_loops, settings.gradient == "raw"
    if raw and loops is None:
        return model
    field, value, usual = ("attack_loops", loops, "null") if raw else ("gradient", settings.gradient, "raw")
    rule = f"{usual} for a network that is not models.CiiV, which has the sampler"
    require(isinstance(model, CiiV), f"objective.{field}", value, rule)
    assert isinstance(model, CiiV)
    looking = model if loops is None else _looking(model, loops)
    return looking if raw else SampledSurrogate(looking, wide=settings.gradient == "wide")


def _looking(model: CiiV, loops: int) -> CiiV:
    try:
        return model.with_loops(loops)
    except InputError as error:
        raise InputError("objective.attack_loops", error.value, error.rule) from None


def _attack(kind: str, recipe: Recipe) -> Attack:
    if kind == "pgd":
        return inner_attack(recipe)
    return single_step(recipe, FGSM if kind == "fgsm" else FGSMRS, f"the attack {kind}", "pgd")


def _loss(recipe: Recipe) -> ViewLoss:
    settings = recipe.objective
    assert isinstance(settings, CiiVSettings)
    sampler = recipe.sampler
    if sampler is not None and sampler.loops == 1 and settings.weight > 0:
        rule = "0 with sampler.loops=1: a single view has nothing to be compared with"
        raise InputError("objective.weight", settings.weight, rule)
    usual: Against = "all" if sampler is not None and sampler.version == "v1" else "others"
    own = settings.model_dump(include=set(ViewLoss.__dataclass_fields__))
    return ViewLoss(**own | {"against": settings.against or usual})
