"""What the attacks that hunt share: how they are called, and how they move to another threat model.

Shapes: B examples; images (B, C, H, W), labels (B,) int64.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Self

from torch import Tensor

from deconfound.attacks.harness import Hunt, assault
from deconfound.core.protocols import Classifier, Judge
from deconfound.core.streams import Streams
from deconfound.core.threat import ThreatModel
from deconfound.core.types import Context


@dataclass(frozen=True)
class HuntingAttack(ABC):
    """An attack that goes on with the points that still stand (``keep="first_adversarial"``).

    Args:
        threat: norm, radius and box.
    """

    threat: ThreatModel

    @abstractmethod
    def _body(self, surrogate: Classifier, hunt: Hunt) -> None:
        """Attacks ``hunt.points`` and reports every iterate to ``hunt.drop_fallen``."""

    def at(self, threat: ThreatModel) -> Self:
        """The same attack in another threat model."""
        return replace(self, threat=threat)

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
        """Adversarial images inside the threat model where they were found, else the clean ones, (B, C, H, W).

        Args:
            model: the surrogate, images -> logits (B, K).
            images: (B, C, H, W) in the box, float32 or float64.
            labels: (B,) int64.
            streams: one per example; by default ``Streams(0, range(B))``.
            context: per-example tensors for the loss; in targeted attacks ``target`` (B,) replaces the classes that
                rank highest. Attacks without a loss or a target have no use for it.
            judge: decides what is adversarial; a classifier or a judge, by default the surrogate's largest logit.

        Raises:
            InputError: shapes or types that do not fit each other or the attack, a given target that is the label.
        """
        return assault(self._body, self.threat, model, images, labels, streams, context, judge)
