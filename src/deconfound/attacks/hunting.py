"""What the attacks that hunt share: how they are called, and how they move to another threat model.

Shapes: B examples; images (B, C, H, W), labels (B,) int64.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from deconfound.attacks.harness import Hunt, Maximiser, assault, maximise
from deconfound.attacks.points import Points
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
    def body(self, surrogate: Classifier, hunt: Hunt) -> None:
        """Attacks ``hunt.points`` and reports every iterate to ``hunt.drop_fallen``.

        What an attack of one's own has to say, beside ``name`` and ``settings``: the hunt asks the judge and keeps what
        is found. Iterates lie inside ``threat`` (``threat.project``), random numbers come from ``hunt.points.streams``.
        """

    @property
    def _begins_clean(self) -> bool:
        """Whether the first iterate is the clean image itself, which then is not forwarded beforehand."""
        return False

    def _whole(self) -> Maximiser | None:
        """What takes every point to the end in place of hunting; nothing is judged then. None for hunting."""
        return None

    def _check(self, images: Tensor) -> None:  # noqa: B027 - most attacks take any images
        """Refuses images that the attack cannot work on."""

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
        self._check(images)
        whole = self._whole()
        if whole is not None:
            with torch.inference_mode(False):
                return maximise(whole, self.threat, "eval", model, Points.of(images, labels, streams, context))
        given = (model, images, labels, streams, context, judge)
        return assault(self.body, self.threat, *given, begins_clean=self._begins_clean)


@dataclass(frozen=True)
class NearestAttack(HuntingAttack):
    """One that also finds the closest adversarial image, at whatever distance."""

    @abstractmethod
    def _seek(self, surrogate: Classifier, hunt: Hunt) -> None:
        """Leaves the closest adversarial image of every point among the images of the hunt."""

    def nearest(
        self,
        model: Classifier,
        images: Tensor,
        labels: Tensor,
        streams: Streams | None = None,
        context: Context | None = None,
        *,
        judge: Judge | Classifier | None = None,
    ) -> Tensor:
        """The closest adversarial image met, at whatever distance; the clean one where it errs or none was met.

        Arguments as in a call; every climb takes all its steps. ``threat.distance(found, images)`` measures it.

        Raises:
            InputError: as in a call.
        """
        threat = self.threat.with_eps(self.threat.width)  # radius 0 would mean that nothing is searched
        given = (model, images, labels, streams, context, judge)
        return assault(self._seek, threat, *given, begins_clean=self._begins_clean)
