"""adv-lib as the bridge sees it: attacks are functions of (model, pixels, labels, settings)."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from types import ModuleType
from typing import Any

from deconfound.attacks.bridge_parts import Library, Maker, Task, made, parameters
from deconfound.core.threat import NORMS, Norm

_SPELLING: Mapping[Norm, float] = {"linf": math.inf, "l2": 2, "l1": 1}
_FIXED: Mapping[str, tuple[Norm, ...]] = {
    "alma": ("l2", "l1"),
    "carlini_wagner_l2": ("l2",),
    "carlini_wagner_linf": ("linf",),
    "ddn": ("l2",),
    "df": ("linf", "l2"),
    "pdgd": ("l2",),
    "pgd_linf": ("linf",),
    "sdf": ("l2",),
    "tr": ("linf", "l2"),
}


def _members(module: ModuleType) -> dict[str, Maker]:
    found = {name: make for name, make in vars(module).items() if inspect.isfunction(make)}
    return {name: make for name, make in found.items() if list(parameters(make))[:3] == ["model", "inputs", "labels"]}


def _norms(name: str, make: Maker) -> tuple[Norm, ...]:
    return _FIXED.get(name, NORMS)


def _follow(make: Maker, norm: Norm, eps: float, chosen: Mapping[str, Any]) -> dict[str, Any]:
    order = _SPELLING[norm]
    values = {"eps": eps, "ε": eps, "norm": order, "p": order, "distance": norm}
    return {key: value for key, value in values.items() if key in parameters(make)}


def _run(task: Task) -> tuple[Any, ...]:
    return (made(task, task.model, task.pixels, task.labels, targeted=False),)


ADV_LIB = Library(
    name="adv_lib",
    module="adv_lib.attacks",
    distribution="adv-lib",
    advice="install github.com/jeromerony/adversarial-library, visdom, and a torchvision that fits this torch",
    own=frozenset({"model", "inputs", "labels", "eps", "ε", "norm", "p", "distance", "targeted", "return_targets"}),
    members=_members,
    norms=_norms,
    follow=_follow,
    run=_run,
)
