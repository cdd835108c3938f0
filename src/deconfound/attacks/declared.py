"""Attacks that a defence declares against itself: what they climb, with which loss, knowing what."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass, replace
from typing import Any, Self

from torch import Tensor

from deconfound.core.guards import attacking
from deconfound.core.protocols import Attack, Classifier, Judge
from deconfound.core.streams import Streams
from deconfound.core.threat import ThreatModel
from deconfound.core.types import Context


@dataclass(frozen=True)
class Declared:
    """An attack on a surrogate of its own, with a context of its own; the judge stays what it was.

    Args:
        attack: how the surrogate is climbed.
        model: the defended classifier, which judges unless another judge does.
        surrogate: what is climbed; None for what the evaluation climbs.
        context: makes the per-example tensors that the loss reads, from (model, images, labels).
        name: in records; by default the attack's.
    """

    attack: Attack
    _: KW_ONLY
    model: Classifier
    surrogate: Classifier | None = None
    context: Callable[..., Context] | None = None
    name: str = ""

    def __post_init__(self) -> None:
        if not self.name:
            object.__setattr__(self, "name", self.attack.name)

    @property
    def threat(self) -> ThreatModel:
        """Of the attack."""
        return self.attack.threat

    def at(self, threat: ThreatModel) -> Self:
        """The same attack in another threat model."""
        return replace(self, attack=self.attack.at(threat))

    def on(self, surrogate: Classifier) -> Self:
        """The same attack on another surrogate of its own."""
        return replace(self, surrogate=surrogate)

    def settings(self) -> dict[str, Any]:
        """The attack's, and whether it climbs a surrogate of its own."""
        return {**self.attack.settings(), "declared": True, "own_surrogate": self.surrogate is not None}

    def __call__(
        self,
        model: Classifier,
        images: Tensor,
        labels: Tensor,
        streams: Streams | None = None,
        context: Context | None = None,
        *,
        judge: Judge | Classifier | None = None,
    ) -> Tensor:
        """Adversarial images where they were found, else the clean ones, (B, C, H, W); arguments as of the attack."""
        own = dict(context or {})
        if self.context is not None and len(images):
            with attacking("eval", images.device, self.model):
                own |= {name: value.detach() for name, value in self.context(self.model, images, labels).items()}
        climbed = model if self.surrogate is None else self.surrogate
        return self.attack(climbed, images, labels, streams, own, judge=self.model if judge is None else judge)
