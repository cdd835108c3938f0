"""Packages that export names without importing the modules behind them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def exporter(package: str, home: Mapping[str, str]) -> Callable[[str], Any]:
    """The ``__getattr__`` of a package whose public ``name`` lives in its module ``home[name]`` (PEP 562).

    >>> exporter("deconfound", {"InputError": "errors"})("InputError").__name__
    'InputError'
    """

    def get(name: str) -> Any:
        if name not in home:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(f"{package}.{home[name]}"), name)

    return get
