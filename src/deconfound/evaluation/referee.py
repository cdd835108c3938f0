"""The last word on every image: forwards the model, asks the judge, checks what attacks hand back.

Shapes: B examples, K classes; images (B, C, H, W), labels, predictions (B,) int64, verdicts (B,) bool.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from deconfound.core.checks import check_logits
from deconfound.core.draws import MAJORITY
from deconfound.core.protocols import Attack, Classifier, Judge, PredictingJudge, StochasticClassifier
from deconfound.core.streams import Streams
from deconfound.core.threat import ThreatModel
from deconfound.core.types import Batch
from deconfound.errors import InputError, require
from deconfound.functional.predictions import predicted

AttackAt = Callable[[ThreatModel], Attack]
"""Makes an attack in a given threat model, e.g. the class of an attack."""


class Attacked(NamedTuple):
    """Images an attack handed back, where they are misjudged (for each seed of the judge too), and the predictions."""

    images: Tensor
    wrong: Tensor
    predictions: Tensor
    by_seed: Tensor


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
        seeds: a random judge is asked so often, each time with other streams.
        surrogate: what attacks climb; None for the model.
    """

    def __init__(
        self,
        model: Classifier,
        judge: Judge | None,
        batch_size: int,
        seeds: int = 1,
        surrogate: Classifier | None = None,
    ) -> None:
        self.model = model
        self.judge = judge
        self.batch_size = batch_size
        self.seeds = seeds
        self.surrogate = surrogate

    def logits(self, images: Tensor, streams: Streams | None = None) -> Tensor:
        """z(images), without gradient, (B, K); of a stochastic model the mean of nine draws.

        Raises:
            InputError: the model returns something else.
        """
        if streams is None:
            streams = Streams(0, torch.arange(len(images), device=images.device))
        parts = torch.arange(len(images), device=images.device).split(self.batch_size)
        with torch.no_grad():
            return torch.cat([self._forward(images[part], streams[part]) for part in parts])

    def _forward(self, images: Tensor, streams: Streams) -> Tensor:
        if isinstance(self.model, StochasticClassifier):
            logits = self.model.draw(images, streams.fold("logits"), MAJORITY).mean(dim=0)
        else:
            logits = self.model(images)
        check_logits(logits, len(images))
        return logits

    def predictions(self, images: Tensor, streams: Streams) -> Tensor:
        """The class the judge sees, (B,), -1 for none; without such a judge that of the largest logit."""
        if not isinstance(self.judge, PredictingJudge):
            return predicted(self.logits(images, streams))
        parts = torch.arange(len(images), device=images.device).split(self.batch_size)
        own = self._streams(streams, 0)
        with torch.no_grad():
            return torch.cat([self.judge.predictions(images[part], own[part]) for part in parts])

    def wrong(self, images: Tensor, labels: Tensor, streams: Streams, predictions: Tensor) -> Tensor:
        """What most seeds of the judge say, (B,) bool, or where the predictions differ from the labels."""
        return majority(self.by_seed(images, labels, streams, predictions))

    def by_seed(self, images: Tensor, labels: Tensor, streams: Streams, predictions: Tensor) -> Tensor:
        """What the judge says with each of its seeds, (S, B) bool."""
        if self.judge is None:
            return (predictions != labels)[None]
        if isinstance(self.judge, PredictingJudge):
            rows = [predictions != labels]
            rows += [self._asked(images, labels, self._streams(streams, seed)) for seed in range(1, self.seeds)]
            return torch.stack(rows)
        return self._asked(images, labels, streams)[None]

    def _asked(self, images: Tensor, labels: Tensor, streams: Streams) -> Tensor:
        assert self.judge is not None
        parts = torch.arange(len(labels), device=labels.device).split(self.batch_size)
        with torch.no_grad():
            return torch.cat([self.judge(images[part], labels[part], streams[part]) for part in parts])

    def _streams(self, streams: Streams, seed: int) -> Streams:
        """Fresh ones: an image that was found with a lucky draw has to hold without it."""
        return streams.fold("judge", seed)

    def attack(self, attack: Attack, batch: Batch, streams: Streams) -> Tensor:
        """What an attack hands back, unjudged, (B, C, H, W)."""
        parts = torch.arange(len(batch.labels), device=batch.labels.device).split(self.batch_size)
        climbed = self.model if self.surrogate is None else self.surrogate
        asked = self.model if self.judge is None and self.surrogate is not None else self.judge
        found = [attack(climbed, batch.images[part], batch.labels[part], streams[part], judge=asked) for part in parts]
        return torch.cat(found).detach()

    def rejudge(self, attack: Attack, images: Tensor, batch: Batch, streams: Streams) -> Attacked:
        """Check an attack's images against its threat model, and judge anew every image that it changed.

        An image that it left alone counts as unbroken.

        Raises:
            InputError: the attack handed back something outside its threat model; the message names it.
        """
        check_contract(attack, images, batch.images)
        changed = (images != batch.images).flatten(1).any(dim=1).nonzero().squeeze(1)
        by_seed = torch.zeros(self.seeds, len(batch.labels), dtype=torch.bool, device=batch.labels.device)
        predictions = batch.labels.clone()
        if len(changed):
            labels, own, moved = batch.labels[changed], streams[changed], images[changed]
            predictions[changed] = self.predictions(moved, own)
            by_seed[:, changed] = self.by_seed(moved, labels, own, predictions[changed])
        return Attacked(images, majority(by_seed), predictions, by_seed)

    def standing(self, attack: Attack, sample: Sample) -> Tensor:
        """Which examples are right on the clean image and after the attack, (n,) bool."""
        chosen = sample.correct.nonzero().squeeze(1)
        left = sample.correct.clone()
        if len(chosen):
            batch, streams = take(sample.batch, chosen), sample.streams[chosen]
            left[chosen] = ~self.rejudge(attack, self.attack(attack, batch, streams), batch, streams).wrong
        return left


def majority(by_seed: Tensor) -> Tensor:
    """What more than half of the seeds say. by_seed (S, B) bool -> (B,) bool."""
    return 2 * by_seed.sum(dim=0) > len(by_seed)


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
