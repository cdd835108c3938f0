"""Attacks: what climbs a surrogate inside a threat model while a judge decides what is adversarial."""

from __future__ import annotations

from typing import TYPE_CHECKING

from deconfound.lazy import exporter

if TYPE_CHECKING:
    from deconfound.attacks.gradient import PGD
    from deconfound.attacks.registry import ATTACKS, about, make, names
    from deconfound.attacks.single_step import FGSM, FGSMRS
    from deconfound.attacks.suites import suite

_HOME = {
    "ATTACKS": "registry",
    "FGSM": "single_step",
    "FGSMRS": "single_step",
    "PGD": "gradient",
    "about": "registry",
    "make": "registry",
    "names": "registry",
    "suite": "suites",
}
__all__ = ["ATTACKS", "FGSM", "FGSMRS", "PGD", "about", "make", "names", "suite"]


__getattr__ = exporter(__name__, _HOME)
