"""Where an evaluation's model and data came from, as its record states it."""

from __future__ import annotations

from dataclasses import dataclass

from deconfound.core.origin import Origin


@dataclass(frozen=True, kw_only=True)
class Provenance(Origin):
    """What an evaluation cannot know by itself and its record must say, besides its origin.

    Attributes:
        budget: demo, normal or full.
        surrogate: what the attacks climbed.
        sources: of transferred images, each with what tells its weights from others.
    """

    budget: str = "normal"
    surrogate: str = "the model itself"
    sources: tuple[str, ...] = ()
