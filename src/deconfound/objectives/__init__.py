"""What is trained: objectives that yield one loss per player and step."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from deconfound.objectives.adversarial import AdversarialTraining
    from deconfound.objectives.standard import Standard
    from deconfound.objectives.trades import Trades

_HOME = {"Standard": "standard", "AdversarialTraining": "adversarial", "Trades": "trades"}
__all__ = ["AdversarialTraining", "Standard", "Trades"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
