"""A surrogate is climbed, a judge decides: who is asked, and when.

Shapes: B examples, K classes; images (B, C, H, W), labels (B,) int64, logits (B, K), verdicts (B,) bool.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn

from deconfound.attacks.contest import Contest, wide
from deconfound.attacks.points import Points
from deconfound.core.draws import MAJORITY, bound
from deconfound.core.guards import evaluating, frozen
from deconfound.core.protocols import Classifier, Judge, RandomJudge, StochasticClassifier
from deconfound.core.streams import Streams
from deconfound.functional.losses import margin
from deconfound.functional.predictions import misses, predicted


def errs(logits: Tensor, labels: Tensor) -> Tensor:
    """Where the prediction differs from the label; a NaN predicts nothing, which is wrong."""
    return predicted(logits) != labels


class ArgmaxJudge:
    """Judges by the largest logit of a classifier."""

    def __init__(self, classifier: Classifier) -> None:
        self.classifier = classifier

    def __call__(self, images: Tensor, labels: Tensor, streams: Streams) -> Tensor:
        """Which images the classifier gets wrong."""
        with torch.no_grad():
            return errs(self.classifier(images), labels)


class DrawnJudge:
    """Judges a stochastic classifier by most of nine draws."""

    def __init__(self, classifier: StochasticClassifier) -> None:
        self.classifier = classifier

    def __call__(self, images: Tensor, labels: Tensor, streams: Streams) -> Tensor:
        """Which images most draws get wrong."""
        return self.misses(images, labels, streams, MAJORITY) > 0.5

    def misses(self, images: Tensor, labels: Tensor, streams: Streams, draws: int) -> Tensor:
        """Share of the draws that err, (B,) float64."""
        with torch.no_grad():
            return misses(self.classifier.draw(images, streams.fold("judge"), draws), labels)


def as_judge(model_or_judge: Judge | Classifier) -> Judge:
    """A judge as it is; a classifier as the judge of its largest logit, a stochastic one of its draws.

    A module is a classifier; any other callable is a judge if it can be called with (images, labels, streams).
    """
    if isinstance(model_or_judge, StochasticClassifier):
        return DrawnJudge(model_or_judge)
    if isinstance(model_or_judge, nn.Module):
        return ArgmaxJudge(model_or_judge)
    try:
        inspect.signature(model_or_judge).bind(None, None, None)
    except (TypeError, ValueError):
        return ArgmaxJudge(model_or_judge)  # type: ignore[arg-type]
    return model_or_judge  # type: ignore[return-value]


class Recorder:
    """Remembers the logits of the classifier's last iterate, so that the same iterate is not forwarded twice.

    An iterate that is forwarded several times in a row, once for each draw, is remembered by the mean of its logits.
    What a classifier asks of itself meanwhile is not heard, and its input is what it was before its own hooks.
    """

    def __init__(self, classifier: Classifier) -> None:
        self._classifier = classifier
        self._images: Tensor | None = None
        self._version = 0
        self._total: Tensor | None = None
        self._calls = 0
        self._inside: list[tuple[Tensor, int] | None] = []

    @contextmanager
    def listening(self) -> Iterator[Classifier]:
        """The classifier to call inside. A module is heard by a hook and stays itself, attributes included."""
        if isinstance(self._classifier, StochasticClassifier):
            yield HeardDraws(self._classifier, self._hear)
            return
        if not isinstance(self._classifier, nn.Module):
            yield self._heard
            return
        self._inside.clear()
        handles = (
            self._classifier.register_forward_pre_hook(self._enter, prepend=True),
            self._classifier.register_forward_hook(self._leave),
        )
        try:
            yield self._classifier
        finally:
            for handle in handles:
                handle.remove()

    def logits(self, images: Tensor, streams: Streams) -> Tensor:
        """z(images): what was heard if this very tensor came last, else a forward (one draw) without gradient."""
        if self._is_last(images) and self._total is not None:
            return self._total / self._calls if self._calls > 1 else self._total
        with torch.no_grad():
            return bound(self._classifier, streams.fold("heard"))(images)

    def _is_last(self, images: Tensor) -> bool:
        """Whether it is the last iterate, unchanged: itself, or the same memory without its history."""
        last = self._images
        if last is None or images._version != self._version:
            return False
        return images is last or (
            images.data_ptr() == last.data_ptr() and images.shape == last.shape and images.stride() == last.stride()
        )

    def _hear(self, images: Tensor, version: int, logits: Tensor) -> None:
        """``version`` is that of the images before the forward: one that writes over them answers for others."""
        again = self._is_last(images) and self._total is not None
        self._images, self._version = images, version
        self._total = self._total + logits.detach() if again else logits.detach()  # type: ignore[operator]
        self._calls = self._calls + 1 if again else 1

    def _enter(self, module: nn.Module, args: tuple[Tensor, ...]) -> None:
        self._inside.append((args[0], args[0]._version) if args else None)

    def _leave(self, module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        call = self._inside.pop()
        if call is not None and not self._inside:
            self._hear(*call, output)

    def _heard(self, images: Tensor) -> Tensor:
        version = images._version
        logits = self._classifier(images)
        self._hear(images, version, logits)
        return logits


class HeardDraws:
    """A stochastic classifier whose draws are overheard; everything else is asked of the classifier."""

    def __init__(self, classifier: StochasticClassifier, hear: Callable[[Tensor, int, Tensor], None]) -> None:
        self._inner, self._hear = classifier, hear

    def draw(self, images: Tensor, streams: Streams, draws: int) -> Tensor:
        """Logits (R, B, K)."""
        version = images._version
        logits = self._inner.draw(images, streams, draws)
        self._hear(images, version, logits.mean(dim=0))
        return logits

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


class Examiner:
    """Says which candidates have fallen.

    Where the judge is the surrogate, its recorded logits decide. A judge of its own costs a forward in another
    precision or network, so it is asked about the clean images, then only about points that the surrogate says have
    fallen, and at the end of a climb about all that are left.

    A random judge always draws from the streams of the attack's call, whatever the rows of an example climb with, and
    no draw settles anything: see ``Contest``.

    Args:
        model: the surrogate.
        judge: None for the surrogate.
        points: all of the attack's call.
    """

    def __init__(self, model: Classifier, judge: Judge | Classifier | None, points: Points) -> None:
        asked = as_judge(model if judge is None else judge)
        same = isinstance(asked, ArgmaxJudge) and asked.classifier is model
        self._judge = None if same else asked
        self._points = points
        self._recorder = Recorder(model)
        drawn = isinstance(self._judge, RandomJudge)
        self._contest = Contest(cast(RandomJudge, self._judge), points.images, points.streams) if drawn else None

    @property
    def random(self) -> bool:
        """Whether the judge draws, so that points do not fall but compete."""
        return self._contest is not None

    @property
    def distinct(self) -> bool:
        """Whether the judge is another than the surrogate."""
        return self._judge is not None

    @contextmanager
    def listening(self) -> Iterator[Classifier]:
        """The surrogate to climb inside; a classifier that judges is in eval mode and frozen meanwhile."""
        panel = getattr(self._judge, "classifier", self._judge)
        with frozen(panel), evaluating(panel), self._recorder.listening() as model:
            yield model

    def fallen(self, candidates: Tensor, points: Points, ask_all: bool = False) -> Tensor:
        """Positions of the candidates (B, C, H, W) that are adversarial, int64, shape (fallen,)."""
        if self._contest is not None:
            if ask_all:
                return self._contest.enter_asked(candidates, points.labels, points.place)
            margins = margin(self.heard(candidates, points), points.labels)
            return self._contest.enter(candidates, points.labels, points.place, margins)
        if self._judge is not None and ask_all:
            return self._asked(candidates, points).nonzero().squeeze(1)
        return self.confirmed(candidates, points, errs(self.heard(candidates, points), points.labels))

    def settled(self, images: Tensor, gone: Tensor) -> Tensor:
        """What the attack hands back: the images, before a random judge the winners where none was found for sure."""
        if self._contest is None:
            return images
        found = gone | (images != self._points.images).flatten(1).any(dim=1)
        return torch.where(wide(found, images), images, self._contest.winners(self._points.labels))

    def heard(self, candidates: Tensor, points: Points) -> Tensor:
        """The surrogate's logits (B, K): those of its last call if that was on this very tensor, else a forward."""
        return self._recorder.logits(candidates, points.streams)

    def confirmed(self, candidates: Tensor, points: Points, suspects: Tensor) -> Tensor:
        """Positions of the suspects (B,) bool that the judge finds adversarial too; it sees no others."""
        rows = suspects.nonzero().squeeze(1)
        if self._contest is not None:
            return self._contest.sure(candidates, points.labels, points.place, rows)
        if self._judge is None or not len(rows):
            return rows
        return rows[self._asked(candidates[rows], points.take(rows))]

    def _asked(self, candidates: Tensor, points: Points) -> Tensor:
        assert self._judge is not None
        streams = self._points.streams[points.place]
        with torch.no_grad():
            return self._judge(candidates.detach(), points.labels, streams)
