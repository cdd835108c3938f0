"""Mixup (Zhang et al. 2018, arXiv 1710.09412)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from torch import nn

from deconfound.core.streams import Streams
from deconfound.core.types import Batch, DeclaredAttack, Loss, Progress, Step
from deconfound.functional.losses import cross_entropy
from deconfound.functional.mixing import check_alpha, mix, mixed_accuracy


class Mixup:
    """Minimises the batch mean of w CE(z(x~), y) + (1 - w) CE(z(x~), y'), where x~ = w x + (1 - w) x'.

    w ~ Beta(alpha, alpha) and (x', y') is another example of the batch, see ``functional.mixing.mix``. With several
    processes a pair stays within a process's share of the batch. No logits are handed on, since mixed images have no
    one label; the part ``accuracy`` is the weight that the predicted class has in the mixture.

    Args:
        model: classifier, images (B, C, H, W) in [0, 1] -> logits (B, K).
        alpha: of the Beta distribution, above 0; 1 in the paper for CIFAR, 0.2 for ImageNet.

    Departure from the authors' code: a weight per pair, as in the paper, not one per batch.
    """

    def __init__(self, model: nn.Module, alpha: float = 1.0) -> None:
        check_alpha(alpha)
        self.model, self.alpha = model, alpha

    def players(self) -> Mapping[str, nn.Module]:
        """The model alone."""
        return {"model": self.model}

    def steps(self, batch: Batch, progress: Progress, streams: Streams) -> Iterator[Step]:
        """One step of the model."""
        yield Step("model", lambda: self._loss(batch, streams))

    def _loss(self, batch: Batch, streams: Streams) -> Loss:
        mixed, partner, weight = mix(batch.images, streams.fold("mixup"), self.alpha)
        logits, own, other = self.model(mixed), batch.labels, batch.labels[partner]
        total = (weight * cross_entropy(logits, own) + (1 - weight) * cross_entropy(logits, other)).mean()
        accuracy = mixed_accuracy(logits, own, other, weight)
        return Loss(total, {"mixed_cross_entropy": total.detach(), "accuracy": accuracy})

    def declared_attacks(self) -> tuple[DeclaredAttack, ...]:
        """None: the model is an ordinary deterministic classifier."""
        return ()
