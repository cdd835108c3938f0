"""Where the model and the data of a record came from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from deconfound.records import Machine


@dataclass(frozen=True, kw_only=True)
class Origin:
    """What judging or looking into a model cannot know by itself and its record must say.

    Attributes:
        model: name of the network or its run.
        model_digest: hash of its weights.
        defence: name of the objective or recipe that trained it, if known.
        data: name of the data set and split.
        data_digest: hash of what it holds.
        class_names: one for each class.
        machine: where the figures are measured.
        precision: of the network, the judge where it is judged.
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
