"""Standard training: mean cross entropy on clean images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from torch import nn

from deconfound.core.streams import Streams
from deconfound.core.types import Batch, DeclaredAttack, Loss, Progress, Step
from deconfound.functional.losses import cross_entropy


class Standard:
    """Minimises the batch mean of CE(z(x), y).

    Args:
        model: classifier, images (B, C, H, W) in [0, 1] -> logits (B, K).
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    def players(self) -> Mapping[str, nn.Module]:
        """The model alone."""
        return {"model": self.model}

    def steps(self, batch: Batch, progress: Progress, streams: Streams) -> Iterator[Step]:
        """One step of the model."""
        yield Step("model", lambda: self._loss(batch))

    def _loss(self, batch: Batch) -> Loss:
        logits = self.model(batch.images)
        total = cross_entropy(logits, batch.labels).mean()
        return Loss(total, {"cross_entropy": total.detach()}, logits.detach())

    def declared_attacks(self) -> tuple[DeclaredAttack, ...]:
        """None: the model is an ordinary deterministic classifier."""
        return ()
