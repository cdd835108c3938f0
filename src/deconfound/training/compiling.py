"""Compiled players: their calls, and the parts of those that are cut in two.

``nn.Module.compile`` reaches calls of a module alone. Objectives that look at features call ``features`` and ``head``
(through CiiV those of the network inside), so these are compiled too, each as one region.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import MethodType

import torch
from torch import Tensor, fx, nn

BACKEND = "inductor"
"""Of ``torch.compile``."""

PARTS = ("features", "head")

_Method = Callable[[nn.Module, Tensor], Tensor]


def cut_modules(module: nn.Module) -> Iterator[nn.Module]:
    """The outermost modules with methods ``features`` and ``head``; submodules so named do not count."""
    if all(callable(getattr(type(module), part, None)) for part in PARTS):
        yield module
        return
    for child in module.children():
        yield from cut_modules(child)


@contextmanager
def compiled(players: Iterable[nn.Module]) -> Iterator[None]:
    """Calls of the players, and the two parts of what is cut in them, run compiled inside; the parts no longer behind.

    A deep copy is compiled in its turn, and states are as they were.
    """
    found: list[nn.Module] = []
    for player in players:
        player.compile(backend=BACKEND)
        found += [module for module in cut_modules(player) if not any(module is one for one in found)]
    for module in found:
        for part in PARTS:
            setattr(module, part, MethodType(_compiled(getattr(type(module), part)), module))
    try:
        yield
    finally:
        for module in found:
            for part in PARTS:
                delattr(module, part)


def _compiled(method: _Method) -> _Method:
    fast: _Method = torch.compile(method, backend=BACKEND)

    def part(self: nn.Module, tensor: Tensor) -> Tensor:
        traced = isinstance(tensor, fx.Proxy)  # a copy that is cut at a layer: what is compiled cannot be traced
        return method(self, tensor) if traced else fast(self, tensor)

    part.__name__ = method.__name__  # by which a bound method is pickled
    return part
