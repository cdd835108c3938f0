"""Where an analysis' model and data came from, as its record states it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from deconfound.core.protocols import Attack
from deconfound.records import Attacker, Machine, Threat


@dataclass(frozen=True, kw_only=True)
class Origin:
    """What an analysis cannot know by itself and its record must say.

    Attributes:
        model: name of the network or its run.
        model_digest: hash of its weights.
        defence: name of the recipe that trained it.
        data: name of the data set and split.
        data_digest: hash of what it holds.
        class_names: one for each class.
        machine: where the figures are measured.
        precision: of the network.
        training: what is to be said about the training, ready for JSON.
        notes: sentences for the reader.
    """

    model: str
    model_digest: str
    data: str
    data_digest: str
    class_names: tuple[str, ...]
    machine: Machine
    defence: str = ""
    precision: str = "32-true"
    training: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def fields(self) -> dict[str, Any]:
        """The record's fields of these names."""
        named = {one.name: getattr(self, one.name) for one in fields(self)}
        return named | {"training": dict(self.training)}


def attack_fields(attack: Attack) -> dict[str, Any]:
    """The record's fields on the attack: its threat model, its name and every setting."""
    threat = attack.threat
    return {
        "threat": Threat(norm=threat.norm, eps=threat.eps, box=threat.box),
        "attack": Attacker(name=attack.name, settings=attack.settings()),
    }
