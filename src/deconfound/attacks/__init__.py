"""Attacks: what climbs a surrogate inside a threat model while a judge decides what is adversarial."""

from __future__ import annotations

from typing import TYPE_CHECKING

from deconfound.lazy import exporter

if TYPE_CHECKING:
    from deconfound.attacks.apgd import APGD
    from deconfound.attacks.bridges import Bridge
    from deconfound.attacks.budgets import BUDGETS
    from deconfound.attacks.corruptions import Corruption
    from deconfound.attacks.cw_l2 import CWL2
    from deconfound.attacks.ddn import DDN
    from deconfound.attacks.deepfool import DeepFool
    from deconfound.attacks.fab import FAB
    from deconfound.attacks.fmn import FMN
    from deconfound.attacks.gradient import PGD
    from deconfound.attacks.harness import Hunt
    from deconfound.attacks.hunting import HuntingAttack
    from deconfound.attacks.in_turn import InTurn
    from deconfound.attacks.inversion import causal_inversion
    from deconfound.attacks.noise import Noise
    from deconfound.attacks.patch import Patch
    from deconfound.attacks.registry import ATTACKS, about, make, names
    from deconfound.attacks.single_step import FGSM, FGSMRS
    from deconfound.attacks.spatial import RotationTranslation
    from deconfound.attacks.spsa import SPSA
    from deconfound.attacks.square import Square
    from deconfound.attacks.suites import Suite, suite

_HOME = {
    "APGD": "apgd",
    "ATTACKS": "registry",
    "BUDGETS": "budgets",
    "Bridge": "bridges",
    "CWL2": "cw_l2",
    "Corruption": "corruptions",
    "DDN": "ddn",
    "DeepFool": "deepfool",
    "FAB": "fab",
    "FGSM": "single_step",
    "FGSMRS": "single_step",
    "FMN": "fmn",
    "Hunt": "harness",
    "HuntingAttack": "hunting",
    "InTurn": "in_turn",
    "Noise": "noise",
    "PGD": "gradient",
    "Patch": "patch",
    "RotationTranslation": "spatial",
    "SPSA": "spsa",
    "Square": "square",
    "Suite": "suites",
    "about": "registry",
    "causal_inversion": "inversion",
    "make": "registry",
    "names": "registry",
    "suite": "suites",
}
__all__ = [
    "APGD",
    "ATTACKS",
    "BUDGETS",
    "Bridge",
    "CWL2",
    "Corruption",
    "DDN",
    "DeepFool",
    "FAB",
    "FGSM",
    "FGSMRS",
    "FMN",
    "Hunt",
    "HuntingAttack",
    "InTurn",
    "Noise",
    "PGD",
    "Patch",
    "RotationTranslation",
    "SPSA",
    "Square",
    "Suite",
    "about",
    "causal_inversion",
    "make",
    "names",
    "suite",
]


__getattr__ = exporter(__name__, _HOME)
