"""Adversarial training on the inner attack's images (PGD-AT; with a one-step attack, FGSM-RS)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from torch import Tensor, nn

from deconfound.core.protocols import Attack
from deconfound.core.streams import Streams
from deconfound.core.types import Batch, DeclaredAttack, Loss, Progress, Step
from deconfound.errors import require
from deconfound.functional.losses import cross_entropy
from deconfound.objectives.compose import composed_steps, warmed


class AdversarialTraining:
    """Minimises the batch mean of CE(z(x~), y), x~ from the inner attack (Madry et al. 2018, eq. 2.1).

    With PGD this is PGD-AT, with FGSM from a random start FGSM-RS (Wong et al. 2020).

    Args:
        model: classifier, images (B, C, H, W) in [0, 1] -> logits (B, K).
        attack: inner maximiser with ``keep="last"``; its mode decides whether the network is in eval mode inside.
        warmup: share of training over which the attack's radius grows from 0 to its own.
    """

    def __init__(self, model: nn.Module, attack: Attack, warmup: float = 0.0) -> None:
        require(0 <= warmup <= 1, "warmup", warmup, "a share of training in [0, 1]")
        self.model = model
        self.attack = attack
        self.warmup = warmup

    def players(self) -> Mapping[str, nn.Module]:
        """The model alone."""
        return {"model": self.model}

    def craft(self, batch: Batch, progress: Progress, streams: Streams) -> Tensor:
        """The inner attack's images, (B, C, H, W)."""
        attack = warmed(self.attack, progress, self.warmup)
        return attack(self.model, batch.images, batch.labels, streams.fold("craft"))

    def loss(self, batch: Batch, adversarial: Tensor, progress: Progress, streams: Streams) -> Loss:
        """Batch mean of CE(z(x~), y)."""
        logits = self.model(adversarial)
        total = cross_entropy(logits, batch.labels).mean()
        return Loss(total, {"adversarial_cross_entropy": total.detach()}, logits.detach(), logits)

    def steps(self, batch: Batch, progress: Progress, streams: Streams) -> Iterator[Step]:
        """One step of the model."""
        return composed_steps(self, batch, progress, streams)

    def declared_attacks(self) -> tuple[DeclaredAttack, ...]:
        """None: the model is an ordinary deterministic classifier."""
        return ()
