"""foolbox as the bridge sees it: attacks are classes of settings, called with (model, pixels, criterion, epsilons)."""

from __future__ import annotations

import importlib
import inspect
import math
from collections.abc import Mapping
from types import ModuleType
from typing import Any

from deconfound.attacks.bridge_parts import Library, Maker, Task, made, parameters
from deconfound.core.threat import NORMS, Norm

_ORDER: Mapping[float | None, Norm] = {math.inf: "linf", 2: "l2", 1: "l1"}
_PREFIX: Mapping[str, Norm] = {"linf": "linf", "l2": "l2", "l1": "l1"}  # where only an instance knows its distance


def _members(module: ModuleType) -> dict[str, Maker]:
    found = {name: make for name, make in vars(module).items() if inspect.isclass(make)}
    return {
        name: make for name, make in found.items() if issubclass(make, module.Attack) and not inspect.isabstract(make)
    }


def _norms(name: str, make: Maker) -> tuple[Norm, ...]:
    order = getattr(getattr(make, "distance", None), "p", None)
    if order in _ORDER:
        return (_ORDER[order],)
    return next(((norm,) for prefix, norm in _PREFIX.items() if name.lower().startswith(prefix)), NORMS)


def _follow(make: Maker, norm: Norm, eps: float, chosen: Mapping[str, Any]) -> dict[str, Any]:
    return {}


def _run(task: Task) -> tuple[Any, ...]:
    """What the attack found, and the same shrunk to the radius along its own direction."""
    foolbox = importlib.import_module("foolbox")
    distance = {"distance": getattr(foolbox.distances, task.norm)} if "distance" in parameters(task.make) else {}
    attack = made(task, **distance)
    model = foolbox.PyTorchModel(task.model.eval(), bounds=(0, 1), device=task.pixels.device)
    found, shrunk, _ = attack(model, task.pixels, foolbox.criteria.Misclassification(task.labels), epsilons=task.eps)
    return found, shrunk


FOOLBOX = Library(
    name="foolbox",
    module="foolbox.attacks",
    distribution="foolbox",
    advice="install it with: pip install foolbox",
    own=frozenset({"distance"}),
    members=_members,
    norms=_norms,
    follow=_follow,
    run=_run,
)
