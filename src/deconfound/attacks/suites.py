"""Suites: named sequences of attacks, each of which runs on what the earlier ones left standing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from deconfound.attacks.gradient import PGD
from deconfound.core.protocols import Attack
from deconfound.core.threat import ThreatModel
from deconfound.errors import unknown_name


def quick(threat: ThreatModel) -> tuple[Attack, ...]:
    """PGD-20 with two restarts on the cross-entropy: a first look, not a verdict. APGD-CE-20 will join it."""
    return (PGD(threat, steps=20, restarts=2),)


_SUITES: Mapping[str, Callable[[ThreatModel], tuple[Attack, ...]]] = MappingProxyType({"quick": quick})


def names() -> tuple[str, ...]:
    """The suites there are."""
    return tuple(_SUITES)


def about(name: str) -> str:
    """One line on a suite."""
    return (_SUITES[name].__doc__ or "").strip().splitlines()[0]


def suite(name: str, threat: ThreatModel) -> tuple[Attack, ...]:
    """The attacks of a suite, in order.

    Raises:
        InputError: no such suite.

    >>> [attack.name for attack in suite("quick", ThreatModel("linf", "8/255"))]
    ['pgd-20x2']
    """
    if name not in _SUITES:
        raise unknown_name("suite", name, _SUITES)
    return _SUITES[name](threat)
