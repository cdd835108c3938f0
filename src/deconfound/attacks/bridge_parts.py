"""What bridges to all attack libraries share: the surrogate as a library sees it, its random numbers, its attacks.

Shapes: B examples, K classes; pixels (B, C, H, W) in [0, 1], logits (B, K).
"""

from __future__ import annotations

import importlib
import inspect
import itertools
import random
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import metadata
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from deconfound.attacks.points import Points
from deconfound.core.draws import bound
from deconfound.core.protocols import Classifier, StochasticClassifier
from deconfound.core.streams import Streams
from deconfound.core.threat import NORMS, Norm, ThreatModel
from deconfound.errors import InputError, reason

Maker = Callable[..., Any]

SEEDS = 2**31 - 1


class Shielded(nn.Module):
    """A surrogate for a library's hands: pixels in [0, 1] in, logits out in the pixels' own type.

    The surrogate is no submodule, so its mode, flags and ``.grad`` are out of reach; a parameter of its own says where
    it lives. The box of the threat model lies behind it. A surrogate without a gradient has gradient 0, as for our own
    attacks. A stochastic one is drawn afresh at each call.

    Args:
        surrogate: what is climbed.
        points: their type and device are what the surrogate is called with.
        threat: its box.
        seed: of the draws.
    """

    def __init__(self, surrogate: Classifier, points: Points, threat: ThreatModel, seed: int) -> None:
        super().__init__()
        like, (low, high) = points.images, threat.box
        calls = itertools.count()

        def ask(pixels: Tensor) -> Tensor:
            images = pixels.to(like) if threat.box == (0.0, 1.0) else low + (high - low) * pixels.to(like)
            if isinstance(surrogate, StochasticClassifier):
                streams = Streams(seed, torch.arange(len(images), device=like.device)).fold("call", next(calls))
                return bound(surrogate, streams)(images)
            return surrogate(images)

        self._ask = ask
        self.where = nn.Parameter(torch.zeros((), device=like.device), requires_grad=False)

    def forward(self, pixels: Tensor) -> Tensor:
        """Pixels (B, C, H, W) -> logits (B, K)."""
        logits: Tensor = self._ask(pixels).to(pixels)
        if pixels.requires_grad and torch.is_grad_enabled() and not logits.requires_grad:
            return logits + 0 * pixels.flatten(1).sum(dim=1, keepdim=True)
        return logits


@dataclass(frozen=True)
class Task:
    """What a library is asked to do: its attack with these settings on these pixels.

    Attributes:
        make: the attack.
        settings: all of its settings that follow from the threat model or were chosen.
        model: the surrogate, shielded.
        pixels: (B, C, H, W) float32 in [0, 1]; many libraries mix types when given doubles.
        labels: (B,) int64.
        eps: the radius in units of the box's width.
        norm: of the threat model.
        seed: for libraries that want one.
    """

    make: Maker
    settings: Mapping[str, Any]
    model: Shielded
    pixels: Tensor
    labels: Tensor
    eps: float
    norm: Norm
    seed: int

    def classes(self) -> int:
        """K, by a forward of one image."""
        with torch.no_grad():
            return int(self.model(self.pixels[:1]).shape[1])

    def filled(self, **values: Any) -> dict[str, Any]:
        """The settings, and of these values those that the attack accepts and nobody chose."""
        accepted = parameters(self.make)
        return {key: value for key, value in values.items() if key in accepted} | dict(self.settings)


@dataclass(frozen=True, kw_only=True)
class Library:
    """An attack library.

    Attributes:
        name: in front of the colon.
        module: that holds its attacks.
        distribution: as package managers call it.
        advice: how to get it.
        own: parameters of its attacks that the bridge fills in, so that nobody else may.
        members: its attacks by name, from the imported module.
        norms: those that an attack, (name, maker), moves in.
        follow: the settings that follow from the threat model, (maker, norm, eps, chosen settings).
        run: does a task; candidates (B, C, H, W) in [0, 1], the best first.
    """

    name: str
    module: str
    distribution: str
    advice: str
    own: frozenset[str]
    members: Callable[[ModuleType], Mapping[str, Maker]]
    norms: Callable[[str, Maker], tuple[Norm, ...]] = field(default=lambda name, make: NORMS)
    follow: Callable[[Maker, Norm, float, Mapping[str, Any]], dict[str, Any]]
    run: Callable[[Task], tuple[Any, ...]]

    def imported(self, attack: str) -> ModuleType:
        """Its module.

        Raises:
            InputError: it is absent, or does not import here.
        """
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # what libraries say to their developers
                return importlib.import_module(self.module)
        except Exception as error:  # a broken dependency raises whatever it likes
            absent = f"{self.name} does not ({reason(error)})"
            rule = f"an attack of a library that imports here, but {absent}; {self.advice}"
            raise InputError("attack", attack, rule) from error

    def version(self) -> str | None:
        """Of the installed distribution, if it says."""
        try:
            return metadata.version(self.distribution)
        except metadata.PackageNotFoundError:
            return None


def parameters(make: Maker) -> Mapping[str, inspect.Parameter]:
    """The parameters of an attack that have names."""
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return {key: value for key, value in inspect.signature(make).parameters.items() if value.kind in named}


def default(make: Maker, name: str, chosen: Mapping[str, Any]) -> Any:
    """The chosen setting, or the library's default, or None."""
    if name in chosen:
        return chosen[name]
    found = parameters(make).get(name)
    return None if found is None or found.default is inspect.Parameter.empty else found.default


def step_size(eps: float, steps: Any) -> float:
    """2.5 eps / steps, at most eps, as in our own attacks; 1.25 eps without a number of steps (FGSM-RS)."""
    return min(eps, 2.5 * eps / steps) if isinstance(steps, int) and steps > 0 else 1.25 * eps


def made(task: Task, *args: Any, **values: Any) -> Any:
    """The library's attack.

    Raises:
        InputError: it refuses a setting.
    """
    try:
        return task.make(*args, **task.filled(**values))
    except (TypeError, ValueError) as error:
        name = getattr(task.make, "__name__", "the attack")
        rule = f"settings that {name} accepts; it says: {reason(error)}"
        raise InputError("attack", dict(task.settings), rule) from error


@contextmanager
def quiet_and_seeded(seed: int) -> Iterator[None]:
    """Global generators start from ``seed`` inside, warnings are dropped; numpy's and Python's come back as they were.

    torch's own is restored by the surroundings of every attack.
    """
    numpy_state, python_state = np.random.get_state(), random.getstate()  # noqa: NPY002  libraries draw from these
    try:
        torch.manual_seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        random.seed(seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        np.random.set_state(numpy_state)  # noqa: NPY002
        random.setstate(python_state)
