"""Showing records: terminal tables, figures and one self-contained page. Nothing here needs a tensor library."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from deconfound.reporting.figures import curve_figure, png, survivors_figure, svg, training_figure
    from deconfound.reporting.page import render
    from deconfound.reporting.tables import evaluation_table, leaderboard_table
    from deconfound.reporting.text import interval, percent

_HOMES = {
    "curve_figure": "figures",
    "evaluation_table": "tables",
    "interval": "text",
    "leaderboard_table": "tables",
    "percent": "text",
    "png": "figures",
    "render": "page",
    "survivors_figure": "figures",
    "svg": "figures",
    "training_figure": "figures",
}

__all__ = [
    "curve_figure",
    "evaluation_table",
    "interval",
    "leaderboard_table",
    "percent",
    "png",
    "render",
    "survivors_figure",
    "svg",
    "training_figure",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
