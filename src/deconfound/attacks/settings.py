"""Checks of an attack's settings, and what every attack says about its threat model."""

from __future__ import annotations

import math
from typing import Any

from deconfound.core.threat import ThreatModel
from deconfound.errors import require


def check_threat(threat: object) -> None:
    """The threat model is one.

    Raises:
        InputError: something else.
    """
    require(isinstance(threat, ThreatModel), "threat", threat, 'a ThreatModel, such as ThreatModel("linf", "8/255")')


def check_step(step: float, threat: ThreatModel) -> None:
    """A step in L-infinity is no longer than a pixel's range, or levels of 255 were meant.

    Raises:
        InputError: a longer one.
    """
    low, high = threat.box
    rule = f"at most {high - low:g} for linf, the range of a pixel; two of 255 levels are 2/255"
    require(threat.norm != "linf" or step <= high - low, "step_size", step, rule)


def number(field: str, value: object, least: float = 0.0, *, above: bool = False, most: float = math.inf) -> None:
    """A finite number from ``least`` (or above it) to ``most``.

    Raises:
        InputError: something else.
    """
    fits = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    inside = fits and (value > least if above else value >= least) and value <= most  # type: ignore[operator]
    bound = f"{'above' if above else 'of at least'} {least:g}" + (f" and at most {most:g}" if most < math.inf else "")
    require(inside, field, value, f"a finite number {bound}")


def choice(field: str, value: object, options: tuple[str, ...]) -> None:
    """One of the options.

    Raises:
        InputError: something else.
    """
    require(value in options, field, value, f"one of {', '.join(options)}")


def described(kind: str, threat: ThreatModel, **settings: Any) -> dict[str, Any]:
    """Every hyper-parameter as plain data for records: what kind of attack, its threat model, its own settings.

    >>> described("pgd", ThreatModel("linf", 0.1), steps=10)["steps"]
    10
    """
    return {"kind": kind, "norm": threat.norm, "eps": threat.eps, "box": list(threat.box), **settings}
