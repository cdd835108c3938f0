"""MART: misclassification-aware adversarial training (Wang et al. 2020, ICLR)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from torch import Tensor, nn

from deconfound.core.protocols import Attack
from deconfound.core.streams import Streams
from deconfound.core.types import Batch, DeclaredAttack, Loss, Progress, Step
from deconfound.errors import require
from deconfound.functional.losses import boosted_cross_entropy, doubted_kl
from deconfound.objectives.compose import composed_steps, warmed


class Mart:
    """Minimises the batch mean of BCE(z(x~), y) + lambda KL(p(x) || p(x~)) (1.0000001 - p_y(x)) (eq. 11).

    BCE(z, y) = CE(z, y) - log(1.0001 - max_{k != y} p_k + 1e-12); x~ maximises the cross entropy (eq. 5), so it is the
    inner attack of PGD-AT. Neither p(x) nor its part as a weight is detached.

    Args:
        model: classifier, images (B, C, H, W) in [0, 1] -> logits (B, K).
        attack: inner maximiser with ``keep="last"``; PGD on cross entropy from a uniform start, step eps/4.
        weight: lambda of the KL term, at least 0; 5 in the paper.
        warmup: share of training over which the attack's radius grows from 0 to its own.

    Departures from the authors' code: the attack starts uniformly in the ball, as the paper has it (the code: x + 0.001
    N(0, I)); log p(x) by ``log_softmax``.
    """

    def __init__(self, model: nn.Module, attack: Attack, weight: float = 5.0, warmup: float = 0.0) -> None:
        require(0 <= weight < float("inf"), "weight", weight, "a number of at least 0")
        require(0 <= warmup <= 1, "warmup", warmup, "a share of training in [0, 1]")
        self.model, self.attack, self.weight, self.warmup = model, attack, weight, warmup

    def players(self) -> Mapping[str, nn.Module]:
        """The model alone."""
        return {"model": self.model}

    def craft(self, batch: Batch, progress: Progress, streams: Streams) -> Tensor:
        """The inner attack's images, (B, C, H, W)."""
        attack = warmed(self.attack, progress, self.warmup)
        return attack(self.model, batch.images, batch.labels, streams.fold("craft"))

    def loss(self, batch: Batch, adversarial: Tensor, progress: Progress, streams: Streams) -> Loss:
        """Batch mean of BCE(z(x~), y) + lambda KL(p(x) || p(x~)) (1.0000001 - p_y(x))."""
        clean, perturbed = self.model(batch.images), self.model(adversarial)
        boosted = boosted_cross_entropy(perturbed, batch.labels).mean()
        doubted = doubted_kl(clean, perturbed, batch.labels).mean()
        parts = {"boosted_cross_entropy": boosted.detach(), "doubted_kl": doubted.detach()}
        return Loss(boosted + self.weight * doubted, parts, perturbed.detach(), perturbed)

    def steps(self, batch: Batch, progress: Progress, streams: Streams) -> Iterator[Step]:
        """One step of the model."""
        return composed_steps(self, batch, progress, streams)

    def declared_attacks(self) -> tuple[DeclaredAttack, ...]:
        """None: the model is an ordinary deterministic classifier."""
        return ()
