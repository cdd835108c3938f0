"""From what a defence declares against itself, as data, to attacks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from deconfound.attacks import make
from deconfound.attacks.budgets import Budget
from deconfound.attacks.declared import Declared
from deconfound.core.protocols import Attack, Classifier, DeclaresSurrogates, StochasticClassifier
from deconfound.core.threat import ThreatModel
from deconfound.core.types import DeclaredAttack
from deconfound.recipes.loading import Loaded
from deconfound.recipes.players import restored


def of_model(model: nn.Module) -> tuple[DeclaredAttack, ...]:
    """What the network itself declares; it needs nothing but its weights."""
    return tuple(model.attack_surrogates()) if isinstance(model, DeclaresSurrogates) else ()


def of_run(run: str | Path, loaded: Loaded) -> tuple[DeclaredAttack, ...]:
    """What the objective of a run declares, rebuilt with all its players; nothing for bare weights.

    Raises:
        InputError: the run's folder lacks its players, or they do not fit.
    """
    if loaded.recipe is None:
        return ()
    return tuple(restored(run, loaded, loaded.recipe).declared_attacks())


def transferred(sources: Mapping[str, Classifier]) -> tuple[DeclaredAttack, ...]:
    """Attacks that climb other classifiers, each under its name, while the model judges."""
    return tuple(DeclaredAttack(name=f"transfer from {name}", surrogate=source) for name, source in sources.items())


def built(
    declared: Iterable[DeclaredAttack], model: nn.Module, threat: ThreatModel, spent: Budget
) -> tuple[Attack, ...]:
    """An attack for each: APGD with the budget's steps, and its draws on a random model, unless the settings say else.

    ``settings["attack"]`` names another attack; the rest are settings of it.

    Raises:
        InputError: an attack or a setting that does not exist.
    """
    return tuple(_one(item, model, threat, spent) for item in declared)


def _one(item: DeclaredAttack, model: nn.Module, threat: ThreatModel, spent: Budget) -> Attack:
    settings: dict[str, Any] = dict(item.settings)
    kind = str(settings.pop("attack", "apgd"))
    if kind == "apgd":
        random = isinstance(item.surrogate or model, StochasticClassifier)
        settings = {"steps": spent.steps, "draws": spent.draws if random else 1} | settings
    if item.loss is not None:
        settings["loss"] = item.loss
    attack = make(kind, threat, **settings)
    return Declared(attack, model=model, surrogate=item.surrogate, context=item.context, name=item.name)
