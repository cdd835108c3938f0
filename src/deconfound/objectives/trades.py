"""TRADES (Zhang et al. 2019, arXiv 1901.08573)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from deconfound.core.guards import evaluating
from deconfound.core.protocols import Attack
from deconfound.core.streams import Streams
from deconfound.core.types import Batch, Context, DeclaredAttack, Loss, Progress, Step
from deconfound.errors import require
from deconfound.functional.losses import cross_entropy, kl_divergence
from deconfound.objectives.compose import composed_steps, warmed


class Trades:
    """Minimises the batch mean of CE(z(x), y) + beta KL(p(x) || p(x~)), where x~ maximises the same KL (eq. 5).

    Args:
        model: classifier, images (B, C, H, W) in [0, 1] -> logits (B, K).
        attack: inner maximiser with ``keep="last"`` whose loss reads the clean logits as
            ``context["reference_logits"]``; the authors start it at x + 0.001 N(0, I).
        reference: whether it does; without, as for an attack by cross entropy, they are not computed.
        beta: weight of the KL term, at least 0; 6 in the paper.
        warmup: share of training over which the attack's radius grows from 0 to its own.

    Departure from the authors' code: the clean logits of the inner attack are computed once, not at every step (they
    are constant there), and the clean images pass the network once, not twice, in the outer loss.
    """

    def __init__(
        self, model: nn.Module, attack: Attack, beta: float = 6.0, warmup: float = 0.0, reference: bool = True
    ) -> None:
        require(beta >= 0, "beta", beta, "a number of at least 0")
        require(0 <= warmup <= 1, "warmup", warmup, "a share of training in [0, 1]")
        self.model = model
        self.attack = attack
        self.warmup = warmup
        self.beta = beta
        self.reference = reference

    def players(self) -> Mapping[str, nn.Module]:
        """The model alone."""
        return {"model": self.model}

    def craft(self, batch: Batch, progress: Progress, streams: Streams) -> Tensor:
        """Images that maximise KL(p(x) || p(x~)), or what else the attack climbs, (B, C, H, W)."""
        context: Context | None = None
        if self.reference:
            with evaluating(self.model), torch.no_grad():
                context = {"reference_logits": self.model(batch.images)}
        attack = warmed(self.attack, progress, self.warmup)
        return attack(self.model, batch.images, batch.labels, streams.fold("craft"), context)

    def loss(self, batch: Batch, adversarial: Tensor, progress: Progress, streams: Streams) -> Loss:
        """Batch mean of CE(z(x), y) + beta KL(p(x) || p(x~)); no target is detached."""
        clean, perturbed = self.model(batch.images), self.model(adversarial)
        natural = cross_entropy(clean, batch.labels).mean()
        divergence = kl_divergence(clean, perturbed).mean()
        parts = {"cross_entropy": natural.detach(), "kl": divergence.detach()}
        return Loss(natural + self.beta * divergence, parts, perturbed.detach(), perturbed)

    def steps(self, batch: Batch, progress: Progress, streams: Streams) -> Iterator[Step]:
        """One step of the model."""
        return composed_steps(self, batch, progress, streams)

    def declared_attacks(self) -> tuple[DeclaredAttack, ...]:
        """None: the model is an ordinary deterministic classifier."""
        return ()
