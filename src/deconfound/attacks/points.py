"""The examples an attack is working on, cut down together as they fall.

Shapes: B examples; images (B, C, H, W), labels (B,) int64.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from deconfound.core.streams import Streams
from deconfound.core.types import Context
from deconfound.errors import InputError, require


@dataclass(frozen=True)
class Points:
    """Clean images with their labels, streams and context; ``place`` (B,) is where each stood in the call."""

    images: Tensor
    labels: Tensor
    streams: Streams
    context: Context
    place: Tensor

    def __len__(self) -> int:
        return self.images.shape[0]

    @classmethod
    def of(cls, images: Tensor, labels: Tensor, streams: Streams | None, context: Context | None) -> Points:
        """The points of one call, checked by shape and type alone so that nothing waits for a device.

        Raises:
            InputError: images not float32 or float64, labels, streams or context of another length, or a target that
                is the label (the only check of values; nothing waits where no target is given).
        """
        precise = isinstance(images, Tensor) and images.dtype in (torch.float32, torch.float64) and images.ndim > 1
        shown = f"{tuple(images.shape)} {images.dtype}" if isinstance(images, Tensor) else type(images).__name__
        require(
            precise, "images", shown, "float32 or float64 images (B, C, H, W); lower precision belongs to the model"
        )
        count, device = len(images), images.device
        fits = isinstance(labels, Tensor) and labels.dtype == torch.int64 and labels.shape == (count,)
        require(fits, "labels", labels if not isinstance(labels, Tensor) else tuple(labels.shape), f"int64 ({count},)")
        streams = Streams(0, torch.arange(count, device=device)) if streams is None else streams.to(device)
        require(len(streams) == count, "streams", len(streams), f"one stream for each of the {count} images")
        for name, value in (context or {}).items():
            if len(value) != count:
                raise InputError(f"context[{name!r}]", tuple(value.shape), f"{count} rows, one for each image")
        _check_target((context or {}).get("target"), labels)
        plain = {name: _plain(value) for name, value in (context or {}).items()}
        return cls(_plain(images), _plain(labels), streams, plain, torch.arange(count, device=device))

    def take(self, index: Tensor) -> Points:
        """The points at integer positions ``index``, everything that belongs to them included."""
        context = {name: value[index] for name, value in self.context.items()}
        streams = self.streams[index]
        return Points(self.images[index], self.labels[index], streams, context, self.place[index])


def first_of_each(values: Tensor) -> Tensor:
    """Positions of the first occurrence of each value (n,), int64.

    >>> first_of_each(torch.tensor([5, 3, 5, 3, 9])).tolist()
    [1, 0, 4]
    """
    ordered, order = values.sort(stable=True)
    begins = torch.ones_like(ordered, dtype=torch.bool)
    begins[1:] = ordered[1:] != ordered[:-1]
    return order[begins]


def _check_target(target: Tensor | None, labels: Tensor) -> None:
    if target is None:
        return
    same = (target == labels).nonzero().flatten()
    if len(same):
        shown = f"class {int(labels[same[0]])} for an image of that class"
        raise InputError("context['target']", shown, "another class than the label")


def _plain(tensor: Tensor) -> Tensor:
    """Without history; a copy where it was made under inference mode, since autograd refuses to save such tensors."""
    return tensor.clone() if tensor.is_inference() else tensor.detach()
