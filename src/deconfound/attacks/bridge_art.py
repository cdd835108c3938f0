"""The Adversarial Robustness Toolbox as the bridge sees it: classes of (estimator, settings) with ``generate``.

It works in numpy and float32.
"""

from __future__ import annotations

import importlib
import inspect
import math
from collections.abc import Mapping
from types import ModuleType
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from deconfound.attacks.bridge_parts import Library, Maker, Task, default, made, parameters, step_size
from deconfound.core.threat import NORMS, Norm

_SPELLING: Mapping[Norm, float] = {"linf": math.inf, "l2": 2, "l1": 1}
_FIXED: Mapping[str, tuple[Norm, ...]] = {
    "BasicIterativeMethod": ("linf",),
    "CarliniL2Method": ("l2",),
    "CarliniLInfMethod": ("linf",),
    "DeepFool": ("l2",),
    "HopSkipJump": ("linf", "l2"),
    "NewtonFool": ("l2",),
    "SquareAttack": ("linf", "l2"),
}

# AutoPGD begins with 2 eps_step, so this is the 2 eps of Croce & Hein 2020.
_WHOLE_STEP = ("AutoProjectedGradientDescent", "AutoAttack", "AutoConjugateGradient", "RescalingAutoConjugateGradient")


def _members(module: ModuleType) -> dict[str, Maker]:
    base = importlib.import_module("art.attacks.attack").EvasionAttack
    found = {name: make for name, make in vars(module).items() if inspect.isclass(make) and issubclass(make, base)}
    return {
        name: make for name, make in found.items() if next(iter(parameters(make)), "") in ("estimator", "classifier")
    }


def _norms(name: str, make: Maker) -> tuple[Norm, ...]:
    return _FIXED.get(name, NORMS)


def _follow(make: Maker, norm: Norm, eps: float, chosen: Mapping[str, Any]) -> dict[str, Any]:
    whole = make.__name__ in _WHOLE_STEP
    step = eps if whole else min(eps, step_size(eps, default(make, "max_iter", chosen)))
    values = {"eps": eps, "norm": _SPELLING[norm], "eps_step": step}
    return {key: value for key, value in values.items() if key in parameters(make)}


def _run(task: Task) -> tuple[Any, ...]:
    classifier = importlib.import_module("art.estimators.classification").PyTorchClassifier
    classes = task.classes()
    estimator = classifier(
        model=task.model,
        loss=nn.CrossEntropyLoss(),
        input_shape=tuple(task.pixels.shape[1:]),
        nb_classes=classes,
        clip_values=(0.0, 1.0),
        device_type="cpu" if task.pixels.device.type == "cpu" else "gpu",
    )
    attack = made(task, estimator, verbose=False, targeted=False, batch_size=len(task.pixels))
    for inner in getattr(attack, "attacks", ()):  # those of its AutoAttack would each show a progress bar
        inner.verbose = False
    labels = F.one_hot(task.labels, classes).float().cpu().numpy()
    found = attack.generate(x=task.pixels.float().cpu().numpy(), y=labels)
    return (torch.as_tensor(found),)


ART = Library(
    name="art",
    module="art.attacks.evasion",
    distribution="adversarial-robustness-toolbox",
    advice="install it with: pip install adversarial-robustness-toolbox",
    own=frozenset({"estimator", "classifier", "eps", "norm", "targeted", "verbose", "summary_writer"}),
    members=_members,
    norms=_norms,
    follow=_follow,
    run=_run,
)
