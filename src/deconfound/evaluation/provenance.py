"""Where an evaluation's model and data came from, as its record states it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from deconfound.records import Machine


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """What an evaluation cannot know by itself and its record must say.

    Attributes:
        model: name of the network.
        model_digest: hash of its weights.
        defence: name of the objective that trained it, if known.
        data: name of the data set and split.
        data_digest: hash of what it holds.
        class_names: one for each class.
        machine: where the figures are measured.
        budget: demo, normal or full.
        precision: of the judge.
        surrogate: what the attacks climbed.
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
    budget: str = "normal"
    precision: str = "32-true"
    surrogate: str = "the model itself"
    training: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
