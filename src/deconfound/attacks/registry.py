"""Attacks by name."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple

from deconfound.attacks.gradient import PGD
from deconfound.attacks.single_step import FGSM, FGSMRS
from deconfound.core.protocols import Attack
from deconfound.core.threat import ThreatModel
from deconfound.errors import InputError, unknown_name


class _Entry(NamedTuple):
    make: Callable[..., Attack]
    about: str


_ENTRIES: Mapping[str, _Entry] = {
    "fgsm": _Entry(FGSM, "one step of eps along the steepest direction (Goodfellow et al. 2015)"),
    "fgsm-rs": _Entry(FGSMRS, "one step of 1.25 eps from a random start (Wong et al. 2020)"),
    "mi-fgsm": _Entry(
        partial(PGD, momentum=1.0, start="none"), "iterated steps with accumulated gradients (Dong et al. 2018)"
    ),
    "pgd": _Entry(PGD, "projected gradient descent with restarts, any loss, L-infinity, L2 and L1 (Madry et al. 2018)"),
}

ATTACKS: Mapping[str, Callable[..., Attack]] = MappingProxyType({name: entry.make for name, entry in _ENTRIES.items()})
"""Name -> maker, called with the threat model and keyword settings. ``mi-fgsm`` is PGD with Dong et al.'s defaults."""


def names() -> tuple[str, ...]:
    """The attacks there are."""
    return tuple(ATTACKS)


def about(name: str) -> str:
    """One line on an attack."""
    return _ENTRIES[name].about


def make(name: str, threat: ThreatModel, **settings: Any) -> Attack:
    """The attack of that name.

    Raises:
        InputError: no such attack, or settings that it does not accept.

    >>> make("pgd", ThreatModel("linf", "8/255"), steps=10).name
    'pgd-10'
    """
    if name not in ATTACKS:
        raise unknown_name("attack", name, ATTACKS)
    known = [key for key in inspect.signature(ATTACKS[name]).parameters if key != "threat"]
    for key, value in settings.items():
        if key not in known:
            raise InputError(f"{name}.{key}", value, f"a setting of {name}: {', '.join(known)}")
    return ATTACKS[name](threat, **settings)
