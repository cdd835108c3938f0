"""torchattacks as the bridge sees it: attacks are classes of (model, settings), called with (pixels, labels)."""

from __future__ import annotations

from collections.abc import Mapping
from types import ModuleType
from typing import Any

from deconfound.attacks.bridge_parts import Library, Maker, Task, default, made, parameters, step_size
from deconfound.core.threat import NORMS, Norm

_SPELLING = {"linf": "Linf", "l2": "L2", "l1": "L1"}
_L2 = ("CW", "DeepFool", "PGDL2", "PGDRSL2")
_ANY = ("EADEN", "EADL1", "GN", "JSMA", "OnePixel", "Pixle", "SparseFool", "VANILA")
_BY_SETTING: Mapping[str, tuple[Norm, ...]] = {
    "APGD": ("linf", "l2"),
    "APGDT": ("linf", "l2"),
    "AutoAttack": ("linf", "l2"),
    "FAB": ("linf", "l2"),  # its L1 fails on a variable that it never set
    "Square": ("linf", "l2"),
}


def _members(module: ModuleType) -> dict[str, Maker]:
    found = {name: getattr(module, name) for name in module.__all__}
    return {name: make for name, make in found.items() if next(iter(parameters(make))) == "model" and name != "LGV"}


def _norms(name: str, make: Maker) -> tuple[Norm, ...]:
    if name in _L2:
        return ("l2",)
    return NORMS if name in _ANY else _BY_SETTING.get(name, ("linf",))


def _follow(make: Maker, norm: Norm, eps: float, chosen: Mapping[str, Any]) -> dict[str, Any]:
    step = step_size(eps, default(make, "steps", chosen))
    values = {"eps": eps, "max_epsilon": eps, "norm": _SPELLING[norm], "alpha": step}
    return {key: value for key, value in values.items() if key in parameters(make)}


def _run(task: Task) -> tuple[Any, ...]:
    classes = {"n_classes": task.classes()} if "n_classes" in parameters(task.make) else {}
    attack = made(task, task.model, verbose=False, seed=task.seed, **classes)
    return (attack(task.pixels, task.labels),)


TORCHATTACKS = Library(
    name="torchattacks",
    module="torchattacks",
    distribution="torchattacks",
    advice="install it with: pip install torchattacks",
    own=frozenset({"model", "eps", "max_epsilon", "norm", "n_classes", "seed", "verbose"}),
    members=_members,
    norms=_norms,
    follow=_follow,
    run=_run,
)
