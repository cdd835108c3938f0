"""Values that rooms hand to each other.

Shapes: B examples, C channels, K classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from torch import Tensor

Context = Mapping[str, Tensor]
"""Per-example tensors for an attack loss, each (B, ...), indexed together with the images when points drop out."""


@dataclass(frozen=True)
class Batch:
    """images (B, C, H, W) float in [0, 1]; labels (B,) int64; index (B,) int64, the places in the data set."""

    images: Tensor
    labels: Tensor
    index: Tensor


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Where training stands: ``epoch`` of ``epochs`` and ``step`` of ``steps`` within it, all counted from 0.

    >>> Progress(epoch=1, epochs=4, step=5, steps=10).fraction
    0.375
    """

    epoch: int
    epochs: int
    step: int = 0
    steps: int = 1

    @property
    def fraction(self) -> float:
        """Finished share of the whole training, in [0, 1)."""
        return (self.epoch + self.step / self.steps) / self.epochs


class Loss(NamedTuple):
    """A scalar to minimise, its named parts (detached scalars, for the log) and the logits it came from, if any.

    ``adversarial`` are the logits (B, K) of the adversarial images with their graph, so that a wrapper that adds a term
    to them needs no second forward.
    """

    total: Tensor
    parts: Mapping[str, Tensor]
    logits: Tensor | None = None
    adversarial: Tensor | None = None


@dataclass(frozen=True)
class Step:
    """One optimiser step of one player.

    Attributes:
        player: name of the module whose parameters move; no other player's do.
        loss: evaluates the loss. It may be called again with the same result: estimators are updated outside it.
        scope: entered before the loss and in its precision, left after backward, before gradients are averaged and
            the optimiser steps, e.g. a weight perturbation. What it changes it puts back when it is left.
        adversarial: the adversarial images (B, C, H, W) that the loss is taken at, if any.
    """

    player: str
    loss: Callable[[], Loss]
    scope: Callable[[], AbstractContextManager[Any]] = nullcontext
    adversarial: Tensor | None = None


@dataclass(frozen=True, kw_only=True)
class DeclaredAttack:
    """An adaptive attack that a defence declares against itself, as data; ``recipes`` turns it into an attack.

    Attributes:
        name: as printed in the record.
        loss: an ``AttackLoss``, or None for the attack's own.
        surrogate: the classifier to climb, or None for the model itself.
        context: per-example tensors for the loss, made from (model, images, labels).
        settings: further settings of the attack, e.g. draws.
    """

    name: str
    loss: Callable[..., Tensor] | None = None
    surrogate: Callable[[Tensor], Tensor] | None = None
    context: Callable[..., Context] | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Audit:
    """Slow attacks that run on a random sample of the survivors, and on all of them if one of it falls.

    What a fast attack brings nearest to falling is attacked together with the sample, which is drawn from the rest:
    half as many as the sample holds, as many again where one of them falls, and so on.

    Attributes:
        attacks: in order, each on what the earlier ones left standing.
        least: the sample holds at least so many survivors (all, if there are fewer).
        share: and at least this share of them.
        ranking: an attack without early stop whose images say what is nearest to falling; None for the sample alone.
    """

    attacks: Sequence[Any]
    least: int = 100
    share: float = 0.1
    ranking: Any = None

    def sample_size(self, survivors: int) -> int:
        """How many survivors are attacked at first.

        >>> Audit(attacks=()).sample_size(50), Audit(attacks=()).sample_size(5001)
        (50, 501)
        """
        return min(survivors, max(self.least, math.ceil(self.share * survivors)))
