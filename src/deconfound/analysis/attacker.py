"""What the record of an analysis says of its attack."""

from __future__ import annotations

from typing import Any

from deconfound.core.protocols import Attack
from deconfound.records import Attacker, Threat


def attack_fields(attack: Attack) -> dict[str, Any]:
    """The record's fields on the attack: its threat model, its name and every setting."""
    threat = attack.threat
    return {
        "threat": Threat(norm=threat.norm, eps=threat.eps, box=threat.box),
        "attack": Attacker(name=attack.name, settings=attack.settings()),
    }
