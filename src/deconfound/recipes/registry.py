"""Names and what they mean: objectives with their settings and inner attacks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

from pydantic import Field
from torch import nn

from deconfound.attacks import FGSMRS
from deconfound.attacks.losses import kl_to_reference
from deconfound.core.imported import imported, is_spec
from deconfound.core.protocols import Objective
from deconfound.errors import InputError, require, unknown_name
from deconfound.objectives import AdversarialTraining, Standard, Trades
from deconfound.objectives.help import STANDARD
from deconfound.recipes.baselines import BPFCSettings, MixupSettings, bpfc, mixup
from deconfound.recipes.cafe import (
    AMR,
    BASE,
    AMRGMMSettings,
    CafeSettings,
    FineTuneSettings,
    amr_gmm,
    fine_tuned,
    inoculated,
)
from deconfound.recipes.causal import CausalAdvSettings, causaladv_m, causaladv_t
from deconfound.recipes.ciiv import CiiVAdversarialSettings, CiiVSettings, ciiv, ciiv_at
from deconfound.recipes.entries import Entry, HostedSettings, ObjectiveSettings, Stage, inner_attack, single_step
from deconfound.recipes.hosts import (
    HelpSettings,
    MartSettings,
    SmoothingSettings,
    helped,
    mart,
    smoothing,
    weights_perturbed,
)

if TYPE_CHECKING:
    from deconfound.recipes.schema import Recipe


class TradesSettings(ObjectiveSettings):
    """``beta`` weighs the KL term; ``attack`` is what the inner attack climbs, the same KL or the cross entropy."""

    beta: Annotated[float, Field(ge=0)] = 6.0
    attack: Literal["kl", "cross_entropy"] = "kl"


def _pgd_at(model: nn.Module, recipe: Recipe) -> Objective:
    return AdversarialTraining(model, inner_attack(recipe), warmup=recipe.eps_warmup)


def _fgsm_rs(model: nn.Module, recipe: Recipe) -> Objective:
    attack = single_step(recipe, FGSMRS, "fgsm-rs", "pgd-at")
    return AdversarialTraining(model, attack, warmup=recipe.eps_warmup)


def _trades(model: nn.Module, recipe: Recipe) -> Objective:
    settings = recipe.objective
    assert isinstance(settings, TradesSettings)
    by_kl = settings.attack == "kl"
    attack = inner_attack(recipe, loss=kl_to_reference, start="gaussian") if by_kl else inner_attack(recipe)
    return Trades(model, attack, beta=settings.beta, warmup=recipe.eps_warmup, reference=by_kl)


OBJECTIVES: Mapping[str, Entry] = {
    "standard": Entry(
        "cross entropy on clean images", ObjectiveSettings, lambda model, _: Standard(model), adversarial=False
    ),
    "pgd-at": Entry("adversarial training on PGD images (Madry et al. 2018)", ObjectiveSettings, _pgd_at),
    "fgsm-rs": Entry("adversarial training on one random-start step (Wong et al. 2020)", ObjectiveSettings, _fgsm_rs),
    "causaladv-m": Entry(
        "PGD-AT that also aligns P(Y | image, style) (Zhang et al. 2022)", CausalAdvSettings, causaladv_m
    ),
    "causaladv-t": Entry(
        "TRADES that also aligns P(Y | image, style) (Zhang et al. 2022)", CausalAdvSettings, causaladv_t
    ),
    "mixup": Entry("cross entropy on convex pairs (Zhang et al. 2018)", MixupSettings, mixup, adversarial=False),
    "bpfc": Entry("equal logits for an image and its upper bits (BPFC)", BPFCSettings, bpfc, adversarial=False),
    "ciiv": Entry(
        "cross entropy of random views that agree on features per exposure (Tang et al. 2021)",
        CiiVSettings,
        ciiv,
        adversarial=False,
        stochastic=True,
        views=True,
    ),
    "ciiv-at": Entry(
        "the same on adversarial images (Tang et al. 2021)",
        CiiVAdversarialSettings,
        ciiv_at,
        stochastic=True,
        views=True,
    ),
    "trades": Entry("clean cross entropy plus a KL to PGD images (Zhang et al. 2019)", TradesSettings, _trades),
    "mart": Entry("PGD-AT that attends to what is misclassified (Wang et al. 2020)", MartSettings, mart),
    "help": Entry(
        "a host (TRADES) and helpers beyond PGD images, labelled by a standard network (Rade & Moosavi-Dezfooli 2022)",
        HelpSettings,
        helped,
        stages={STANDARD: "standard"},
    ),
    "smoothing": Entry(
        "cross entropy under Gaussian noise, for certified L2 radii (Cohen et al. 2019)",
        SmoothingSettings,
        smoothing,
        adversarial=False,
        stochastic=True,
    ),
    "amr-gmm": Entry(
        "instrumental-variable regression in the features of an adversarially trained network (Kim et al. 2023)",
        AMRGMMSettings,
        amr_gmm,
        adversarial=False,
        stages={BASE: "cafe/base"},
        begins_at=BASE,
        views=True,
    ),
    "cafe": Entry(
        "a host that fine-tunes, and causal inoculation (Kim et al. 2023)",
        CafeSettings,
        inoculated,
        stages={BASE: "cafe/base", AMR: "amr-gmm"},
        begins_at=BASE,
        places_awp=True,
    ),
    "fine-tune": Entry(
        "a host alone that fine-tunes, the control of cafe",
        FineTuneSettings,
        fine_tuned,
        stages={BASE: "cafe/base"},
        begins_at=BASE,
        places_awp=True,
    ),
}


def entry_of(name: str) -> Entry:
    """What is known of an objective: of one of ours by its name, of one's own by ``module:NAME``, an ``Entry`` there.

    Raises:
        InputError: no such objective, or nothing of that kind in the module.
    """
    if is_spec(name):
        found = imported(name, "objective")
        require(isinstance(found, Entry), "objective", name, f"a recipes.Entry, not {type(found).__name__}")
        return cast(Entry, found)
    if name not in OBJECTIVES:
        raise unknown_name("objective", name, (*OBJECTIVES, "module:NAME"))
    return OBJECTIVES[name]


def stages_of(settings: ObjectiveSettings) -> dict[str, str]:
    """What an objective of these settings builds on, in order: its own stages, then its host's; each with its recipe.

    >>> stages_of(objective_settings({"name": "fine-tune", "host": "help"}))
    {'base': 'cafe/base', 'standard': 'standard'}
    """
    own = dict(entry_of(settings.name).stages)
    return own | stages_of(settings.host) if isinstance(settings, HostedSettings) else own


def is_stochastic(settings: ObjectiveSettings) -> bool:
    """Whether the network of such an objective predicts at random, as its host may say."""
    hosted = isinstance(settings, HostedSettings) and is_stochastic(settings.host)
    return hosted or entry_of(settings.name).stochastic


def draws_views(settings: ObjectiveSettings) -> bool:
    """Whether an objective trains a network behind a sampler; one of the user's own is trusted to."""
    hosted = isinstance(settings, HostedSettings) and draws_views(settings.host)
    return hosted or entry_of(settings.name).views or settings.name not in OBJECTIVES


def objective_settings(value: Any) -> ObjectiveSettings:
    """Settings from plain data such as ``{"name": "trades", "beta": 6}``.

    Raises:
        InputError: no name, or one that does not exist.
    """
    if not isinstance(value, Mapping) or not isinstance(value.get("name"), str):
        raise InputError("objective", value, "a name, or a mapping with a name")
    return entry_of(value["name"]).settings.model_validate(dict(value))


def build_objective(model: nn.Module, recipe: Recipe, stages: Mapping[str, Stage] | None = None) -> Objective:
    """The objective that a recipe names, around a model, on the stages that it needs.

    Raises:
        InputError: a stage that is missing; a model that the objective cannot train.
    """
    entry = entry_of(recipe.objective.name)
    given = stages or {}
    for name in stages_of(recipe.objective):
        require(name in given, f"stages.{name}", None, f"a finished stage, which {recipe.objective.name} builds on")
    objective = entry.build(model, recipe, given) if entry.stages else entry.build(model, recipe)
    return objective if entry.places_awp else weights_perturbed(objective, recipe.awp)


__all__ = [
    "OBJECTIVES",
    "Entry",
    "ObjectiveSettings",
    "Stage",
    "build_objective",
    "entry_of",
    "inner_attack",
    "is_stochastic",
    "objective_settings",
    "stages_of",
]
