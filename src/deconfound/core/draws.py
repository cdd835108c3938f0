"""How random models are asked: one draw as an ordinary classifier, and how many a majority has.

Shapes: B examples, K classes; images (B, C, H, W), logits (B, K).
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from deconfound.core.protocols import Classifier, StochasticClassifier
from deconfound.core.streams import Streams

MAJORITY = 9
"""Draws that decide what a random model predicts: odd, so that two classes cannot tie."""


class Drawn:
    """One draw of a stochastic classifier as an ordinary classifier; everything else is asked of the classifier."""

    def __init__(self, classifier: StochasticClassifier, streams: Streams) -> None:
        self._classifier, self._streams = classifier, streams

    def __call__(self, images: Tensor) -> Tensor:
        """Images (B, C, H, W) -> logits (B, K)."""
        return self._classifier.draw(images, self._streams, 1)[0]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._classifier, name)


def bound(model: Classifier, streams: Streams) -> Classifier:
    """The model itself, or one draw of a stochastic one from these streams."""
    return Drawn(model, streams) if isinstance(model, StochasticClassifier) else model
