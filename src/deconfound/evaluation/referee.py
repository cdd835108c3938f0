"""The last word on every image: forwards the model, asks the judge, checks what attacks hand back.

Shapes: B examples, K classes; images (B, C, H, W), labels, predictions (B,) int64, verdicts (B,) bool.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from deconfound.core.protocols import Attack, Classifier, Judge
from deconfound.core.streams import Streams
from deconfound.core.threat import ThreatModel
from deconfound.core.types import Batch
from deconfound.errors import InputError, require
from deconfound.functional.predictions import predicted

AttackAt = Callable[[ThreatModel], Attack]
"""Makes an attack in a given threat model, e.g. the class of an attack."""


class Attacked(NamedTuple):
    """Images an attack handed back, where they are misjudged, and what the model says there."""

    images: Tensor
    wrong: Tensor
    predictions: Tensor


@dataclass(frozen=True)
class Sample:
    """Some examples, their streams, and which of them are right on the clean image, (n,) bool."""

    batch: Batch
    streams: Streams
    correct: Tensor


class Referee:
    """Decides in the model's own precision, ``batch_size`` images at a time.

    Args:
        model: the classifier.
        judge: decides what is wrong; None for the largest logit.
        batch_size: images forwarded together.
    """

    def __init__(self, model: Classifier, judge: Judge | None, batch_size: int) -> None:
        self.model = model
        self.judge = judge
        self.batch_size = batch_size

    def logits(self, images: Tensor) -> Tensor:
        """z(images), without gradient, (B, K)."""
        with torch.no_grad():
            return torch.cat([self.model(part) for part in images.split(self.batch_size)])

    def wrong(self, images: Tensor, labels: Tensor, streams: Streams, predictions: Tensor) -> Tensor:
        """What the judge says, or where the predictions differ from the labels."""
        if self.judge is None:
            return predictions != labels
        parts = torch.arange(len(labels), device=labels.device).split(self.batch_size)
        with torch.no_grad():
            return torch.cat([self.judge(images[part], labels[part], streams[part]) for part in parts])

    def attack(self, attack: Attack, batch: Batch, streams: Streams) -> Tensor:
        """What an attack hands back, unjudged, (B, C, H, W)."""
        parts = torch.arange(len(batch.labels), device=batch.labels.device).split(self.batch_size)
        found = [
            attack(self.model, batch.images[part], batch.labels[part], streams[part], judge=self.judge)
            for part in parts
        ]
        return torch.cat(found).detach()

    def rejudge(self, attack: Attack, images: Tensor, batch: Batch, streams: Streams) -> Attacked:
        """Check an attack's images against its threat model, and judge anew every image that it changed.

        An image that it left alone counts as unbroken.

        Raises:
            InputError: the attack handed back something outside its threat model; the message names it.
        """
        check_contract(attack, images, batch.images)
        changed = (images != batch.images).flatten(1).any(dim=1).nonzero().squeeze(1)
        wrong = torch.zeros_like(batch.labels, dtype=torch.bool)
        predictions = batch.labels.clone()
        if len(changed):
            predictions[changed] = predicted(self.logits(images[changed]))
            labels, own = batch.labels[changed], streams[changed]
            wrong[changed] = self.wrong(images[changed], labels, own, predictions[changed])
        return Attacked(images, wrong, predictions)

    def standing(self, attack: Attack, sample: Sample) -> Tensor:
        """Which examples are right on the clean image and after the attack, (n,) bool."""
        chosen = sample.correct.nonzero().squeeze(1)
        left = sample.correct.clone()
        if len(chosen):
            batch, streams = take(sample.batch, chosen), sample.streams[chosen]
            left[chosen] = ~self.rejudge(attack, self.attack(attack, batch, streams), batch, streams).wrong
        return left


def take(batch: Batch, index: Tensor) -> Batch:
    """The examples of a batch at integer positions."""
    return Batch(batch.images[index], batch.labels[index], batch.index[index])


def check_contract(attack: Attack, found: Tensor, images: Tensor) -> None:
    """An attack returns as many images of the same kind, each inside its threat model.

    Raises:
        InputError: it does not; the message names the attack.
    """
    field = f"attack {attack.name!r}"
    alike = isinstance(found, Tensor) and found.shape == images.shape and found.dtype == images.dtype
    shown = f"{tuple(found.shape)} {found.dtype}" if isinstance(found, Tensor) else type(found).__name__
    require(alike, field, shown, f"images like those it was given, {tuple(images.shape)} {images.dtype}")
    inside = attack.threat.contains(found, images)
    if not bool(inside.all()):
        outside = (~inside).nonzero().squeeze(1)
        worst = float(attack.threat.distance(found[outside], images[outside]).max())
        shown = f"{len(outside)} images outside its threat model, the farthest at {worst:.6g}"
        low, high = attack.threat.box
        raise InputError(field, shown, f"images within {attack.threat} and [{low:g}, {high:g}]")
