"""The examples of an evaluation, from tensors or from a source that is read batch by batch.

Shapes: N examples in all, B of a batch; images (N, C, H, W), labels (N,), index (N,) int64.
"""

from __future__ import annotations

import hashlib
from typing import Protocol

import torch
from torch import Tensor

from deconfound.core.checks import check_images
from deconfound.core.protocols import ImageSource
from deconfound.core.types import Batch
from deconfound.errors import InputError, require


class Examples(Protocol):
    """N examples by place; ``index`` holds their places in the data set, which key their random numbers."""

    @property
    def index(self) -> Tensor:
        """Places in the data set (N,), int64."""
        ...

    def batch(self, places: Tensor) -> Batch:
        """The examples at ``places`` (B,), on the device of the evaluation."""
        ...


class TensorExamples:
    """Images and labels in memory."""

    def __init__(self, images: Tensor, labels: Tensor, index: Tensor, device: torch.device) -> None:
        self.images, self.labels, self.index, self._device = images, labels, index, device

    def batch(self, places: Tensor) -> Batch:
        """The examples at ``places``."""
        chosen = places.to(self.images.device)
        images, labels = self.images[chosen], self.labels[places.to(self.labels.device)]
        return Batch(images.to(self._device), labels.to(self._device), self.index[places].to(self._device))


class SourceExamples:
    """Positions of an image source; only the batch at work is held as floats, in the precision of the model."""

    def __init__(self, source: ImageSource, index: Tensor, device: torch.device, dtype: torch.dtype) -> None:
        self._source, self.index, self._device, self._dtype = source, index, device, dtype

    def batch(self, places: Tensor) -> Batch:
        """The examples at ``places``."""
        positions = self.index[places]
        (batch,) = self._source.batches([positions], self._device)
        return Batch(batch.images.to(self._dtype), batch.labels, positions.to(self._device))


def examples_of(
    images: Tensor | ImageSource,
    labels: Tensor | None,
    index: Tensor | None,
    device: torch.device,
    dtype: torch.dtype = torch.float32,
) -> Examples:
    """The examples of a call, checked as far as that needs no model.

    Raises:
        InputError: images outside [0, 1], labels or index that do not fit, a repeated or impossible index.
    """
    if isinstance(images, Tensor):
        check_images(images)
        count = len(images)
        if not isinstance(labels, Tensor) or labels.dtype != torch.int64 or labels.shape != (count,):
            shown = f"{tuple(labels.shape)} {labels.dtype}" if isinstance(labels, Tensor) else type(labels).__name__
            raise InputError("labels", shown, f"an int64 tensor of shape ({count},), one label for each image")
        return TensorExamples(images, labels, _index(index, count, None), device)
    require(labels is None, "labels", "labels beside a source", "None: a source brings its own labels")
    return SourceExamples(images, _index(index, len(images), len(images)), device, dtype)


def _index(index: Tensor | None, default: int, limit: int | None) -> Tensor:
    if index is None:
        return torch.arange(default)
    index = index.detach().cpu()
    require(index.dtype == torch.int64 and index.ndim == 1, "index", tuple(index.shape), "int64 places of shape (N,)")
    require(limit is not None or len(index) == default, "index", len(index), f"one place for each of {default} images")
    require(len(index) > 0, "index", 0, "at least one example")
    require(len(index.unique()) == len(index), "index", "repeated places", "each example once")
    low, high = int(index.min()), int(index.max())
    require(low >= 0, "index", low, "places of at least 0")
    if limit is not None:
        require(high < limit, "index", high, f"places below {limit}, the size of the source")
    return index


def spread(count: int, at_most: int) -> Tensor:
    """At most so many places, evenly spaced over ``count``, so that data sorted by class are all represented.

    >>> spread(10, 4).tolist()
    [0, 3, 6, 9]
    """
    if count <= at_most:
        return torch.arange(count)
    return torch.linspace(0, count - 1, at_most, dtype=torch.float64).round().to(torch.int64)


def index_digest(index: Tensor) -> str:
    """A hash of the places."""
    return hashlib.sha256(index.numpy().tobytes()).hexdigest()[:16]
