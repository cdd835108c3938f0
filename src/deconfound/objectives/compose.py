"""How an objective with an adversarial example becomes a step: craft once, then a loss that can be evaluated again."""

from __future__ import annotations

from collections.abc import Iterator

from deconfound.core.protocols import AdversarialObjective, Attack
from deconfound.core.streams import Streams
from deconfound.core.types import Batch, Progress, Step


def composed_steps(
    objective: AdversarialObjective, batch: Batch, progress: Progress, streams: Streams
) -> Iterator[Step]:
    """One step whose loss is ``objective.loss(batch, objective.craft(batch))``; the images are crafted once."""
    adversarial = objective.craft(batch, progress, streams)
    yield Step("model", lambda: objective.loss(batch, adversarial, progress, streams), adversarial=adversarial)


def warmed(attack: Attack, progress: Progress, warmup: float) -> Attack:
    """The inner attack with its radius on the way up: eps * min(1, t / warmup), t the finished share of training.

    At large radii (0.3 on MNIST) training from scratch otherwise stays at a constant prediction. 0 switches it off.
    """
    if progress.fraction >= warmup:
        return attack
    return attack.at(attack.threat.with_eps(attack.threat.eps * progress.fraction / warmup))
