"""Suite ``unseen``: attackers that training did not know, beside the one it knew."""

from __future__ import annotations

from dataclasses import replace

from deconfound.attacks.apgd import APGD
from deconfound.attacks.corruptions import KINDS, SEVERITIES, Corruption
from deconfound.attacks.in_turn import InTurn
from deconfound.attacks.patch import Patch
from deconfound.attacks.spatial import RotationTranslation
from deconfound.attacks.suites import Columns, Setting, Suite, cross_entropy_apgd, targeted_apgd, untargeted_dlr
from deconfound.core.protocols import Attack
from deconfound.core.threat import NORMS, ThreatModel
from deconfound.errors import require


def unseen(setting: Setting) -> Suite:
    """Other norms than the trained one, corruptions, rotations, patches: a table of seen against unseen attackers."""
    threat = setting.threat
    for norm in NORMS:
        require(norm == threat.norm or norm in setting.radii, "radii", dict(setting.radii), f"a radius for {norm}")
    others = [ThreatModel(norm, setting.radii[norm], threat.box) for norm in NORMS if norm != threat.norm]
    norms = [Columns("norm", _strong(setting, other)) for other in others]
    severities = range(1, SEVERITIES + 1)
    beyond: list[Attack] = [Corruption(threat, kind=kind, severity=s) for kind in KINDS for s in severities]
    beyond += [RotationTranslation(threat), Patch(threat)]
    return Suite(
        name="unseen",
        attacks=_members(setting),
        columns=(*norms, *(Columns("beyond", attack) for attack in beyond)),
        notes=("robust accuracy is that under the seen threat model; the table shows the unseen ones",),
    )


def _members(setting: Setting) -> tuple[Attack, ...]:
    if setting.stochastic:
        spent = setting.budget
        first = APGD(setting.threat, steps=spent.steps, draws=spent.draws)
        return first, untargeted_dlr(setting, steps=spent.steps, draws=spent.draws)
    return cross_entropy_apgd(setting), targeted_apgd(setting)


def _strong(setting: Setting, threat: ThreatModel) -> Attack:
    """Restarts, targets and schedule are those of the norm itself."""
    return InTurn(_members(replace(setting, threat=threat)), f"apgd-{threat.norm}")
