"""Attacks by name."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple

from deconfound.attacks.apgd import APGD
from deconfound.attacks.bridges import LIBRARIES, bridge, is_bridge
from deconfound.attacks.corruptions import Corruption
from deconfound.attacks.cw_l2 import CWL2
from deconfound.attacks.ddn import DDN
from deconfound.attacks.deepfool import DeepFool
from deconfound.attacks.fab import FAB
from deconfound.attacks.fmn import FMN
from deconfound.attacks.gradient import PGD
from deconfound.attacks.losses import margin
from deconfound.attacks.noise import Noise
from deconfound.attacks.own import own
from deconfound.attacks.patch import Patch
from deconfound.attacks.single_step import FGSM, FGSMRS
from deconfound.attacks.spatial import RotationTranslation
from deconfound.attacks.spsa import SPSA
from deconfound.attacks.square import Square
from deconfound.core.imported import is_spec
from deconfound.core.protocols import Attack
from deconfound.core.threat import ThreatModel
from deconfound.errors import InputError, unknown_name


class _Entry(NamedTuple):
    make: Callable[..., Attack]
    about: str


_ENTRIES: Mapping[str, _Entry] = {
    "apgd": _Entry(APGD, "AutoPGD on any loss, untargeted or targeted (Croce & Hein 2020; L1: 2021)"),
    "apgd-t": _Entry(partial(APGD, targets=9), "AutoPGD on the targeted DLR loss, nine targets (Croce & Hein 2020)"),
    "corruption": _Entry(
        Corruption, "noise, blur, contrast, brightness, JPEG, pixelation (Hendrycks & Dietterich 2019)"
    ),
    "cw-l2": _Entry(CWL2, "smallest L2 perturbation by Adam and binary search (Carlini & Wagner 2017)"),
    "cw-linf": _Entry(
        partial(PGD, loss=margin, relative_step=3.0, steps=100), "PGD on the margin (Carlini & Wagner 2017) in the ball"
    ),
    "ddn": _Entry(DDN, "smallest L2 perturbation, direction and norm decoupled (Rony et al. 2019)"),
    "deepfool": _Entry(DeepFool, "smallest perturbation by linearised boundaries (Moosavi-Dezfooli et al. 2016)"),
    "fab": _Entry(FAB, "smallest perturbation by projections onto linearised boundaries (Croce & Hein 2020)"),
    "fab-t": _Entry(partial(FAB, targets=9), "FAB towards nine targets, as in AutoAttack"),
    "fgsm": _Entry(FGSM, "one step of eps along the steepest direction (Goodfellow et al. 2015)"),
    "fgsm-rs": _Entry(FGSMRS, "one step of 1.25 eps from a random start (Wong et al. 2020)"),
    "fmn": _Entry(FMN, "smallest perturbation by an adaptive ball (Pintor et al. 2021)"),
    "mi-fgsm": _Entry(
        partial(PGD, momentum=1.0, start="none"), "iterated steps with accumulated gradients (Dong et al. 2018)"
    ),
    "noise": _Entry(Noise, "the best of several random perturbations, uniform or Gaussian"),
    "patch": _Entry(Patch, "a small window of any pixels (Brown et al. 2017)"),
    "pgd": _Entry(PGD, "projected gradient descent with restarts, any loss, L-infinity, L2 and L1 (Madry et al. 2018)"),
    "rotation-translation": _Entry(
        RotationTranslation, "the worst rotation and shift of a grid (Engstrom et al. 2019)"
    ),
    "spsa": _Entry(SPSA, "gradients estimated from queries, for each image (Uesato et al. 2018)"),
    "square": _Entry(Square, "random squares, without gradients (Andriushchenko et al. 2020)"),
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

    ``LIBRARY:NAME`` is one of torchattacks, foolbox, ART or adv-lib; any other ``module:callable`` is one's own, made
    of the threat model and the settings.

    Raises:
        InputError: no such attack, a library that is not installed, or settings that the attack does not accept.

    >>> make("pgd", ThreatModel("linf", "8/255"), steps=10).name
    'pgd-10'
    """
    if is_spec(name) and not is_bridge(name):
        return own(name, threat, f", or LIBRARY:ATTACK, LIBRARY of {', '.join(LIBRARIES)}", **settings)
    if ":" in name:
        return bridge(name, threat, **settings)
    if name not in ATTACKS:
        raise unknown_name("attack", name, ATTACKS)
    known = [key for key in inspect.signature(ATTACKS[name]).parameters if key != "threat"]
    for key, value in settings.items():
        if key not in known:
            raise InputError(f"{name}.{key}", value, f"a setting of {name}: {', '.join(known)}")
    return ATTACKS[name](threat, **settings)
