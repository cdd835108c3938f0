"""A surrogate is climbed, a judge decides: who is asked, and when.

Shapes: B examples, K classes; images (B, C, H, W), labels (B,) int64, logits (B, K), verdicts (B,) bool.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from deconfound.attacks.points import Points
from deconfound.core.guards import evaluating, frozen
from deconfound.core.protocols import Classifier, Judge
from deconfound.core.streams import Streams
from deconfound.functional.predictions import predicted


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


def as_judge(model_or_judge: Judge | Classifier) -> Judge:
    """A judge as it is; a classifier as the judge of its largest logit.

    A module is a classifier; any other callable is a judge if it can be called with (images, labels, streams).
    """
    if isinstance(model_or_judge, nn.Module):
        return ArgmaxJudge(model_or_judge)
    try:
        inspect.signature(model_or_judge).bind(None, None, None)
    except (TypeError, ValueError):
        return ArgmaxJudge(model_or_judge)  # type: ignore[arg-type]
    return model_or_judge  # type: ignore[return-value]


class Recorder:
    """Remembers the logits of the classifier's last call, so that the same iterate is not forwarded twice."""

    def __init__(self, classifier: Classifier) -> None:
        self._classifier = classifier
        self._images: Tensor | None = None
        self._logits: Tensor | None = None

    @contextmanager
    def listening(self) -> Iterator[Classifier]:
        """The classifier to call inside. A module is heard by a hook and stays itself, attributes included."""
        if not isinstance(self._classifier, nn.Module):
            yield self._heard
            return
        handle = self._classifier.register_forward_hook(self._hook)
        try:
            yield self._classifier
        finally:
            handle.remove()

    def logits(self, images: Tensor) -> Tensor:
        """z(images): what was heard if this very tensor came last, else a forward without gradient."""
        if images is self._images and self._logits is not None:
            return self._logits
        with torch.no_grad():
            return self._classifier(images)

    def _hook(self, module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        self._images, self._logits = (args[0], output.detach()) if args else (None, None)

    def _heard(self, images: Tensor) -> Tensor:
        logits = self._classifier(images)
        self._images, self._logits = images, logits.detach()
        return logits


class Examiner:
    """Says which candidates have fallen.

    Where the judge is the surrogate, its recorded logits decide. A judge of its own costs a forward in another
    precision or network, so it is asked about the clean images, then only about points that the surrogate says have
    fallen, and at the end of a climb about all that are left.
    """

    def __init__(self, model: Classifier, judge: Judge | Classifier | None) -> None:
        asked = None if judge is None or judge is model else as_judge(judge)
        same = asked is None or (isinstance(asked, ArgmaxJudge) and asked.classifier is model)
        self._judge = None if same else asked
        self._recorder = Recorder(model)

    @property
    def distinct(self) -> bool:
        """Whether the judge is another than the surrogate."""
        return self._judge is not None

    @contextmanager
    def listening(self) -> Iterator[Classifier]:
        """The surrogate to climb inside; a classifier that judges is in eval mode and frozen meanwhile."""
        panel = self._judge.classifier if isinstance(self._judge, ArgmaxJudge) else self._judge
        with frozen(panel), evaluating(panel), self._recorder.listening() as model:
            yield model

    def fallen(self, candidates: Tensor, points: Points, ask_all: bool = False) -> Tensor:
        """Positions of the candidates (B, C, H, W) that are adversarial, int64, shape (fallen,)."""
        if self._judge is not None and ask_all:
            return self._asked(candidates, points).nonzero().squeeze(1)
        found = errs(self._recorder.logits(candidates), points.labels).nonzero().squeeze(1)
        if self._judge is None or not len(found):
            return found
        return found[self._asked(candidates[found], points.take(found))]

    def _asked(self, candidates: Tensor, points: Points) -> Tensor:
        assert self._judge is not None
        with torch.no_grad():
            return self._judge(candidates.detach(), points.labels, points.streams)
