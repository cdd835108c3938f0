"""The sampler as one loop: random numbers, cells, masks and their mean, without anything in between in memory.

Shapes: B examples, L loops, M inner samples, C channels, H height, W width; inputs (B, C, H, W), views
(B, L, C', H, W), exposure (B, L).
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from deconfound.core.streams import Streams
from deconfound.functional import sampling
from deconfound.functional.hashing import uniform_apart
from deconfound.functional.sampling import Slope
from deconfound.models.sampler import Sampler, Sampling

_TOGETHER, _TOGETHER_ON_DEVICE = 8, 64
"""Examples of one call of a program, which has a fixed size: four times as fast as one of any size."""


class CompiledSampler(Sampler):
    """The same views from the same streams, up to the order of roundings: for what is climbed, not for judges.

    One program for each slope that is asked for. The sample's own slope, masks shared over the batch, and float64 take
    the ordinary way.

    Args:
        settings: what is drawn.
        size: (H, W) of the images.
        backend: of ``torch.compile``.
    """

    def __init__(self, settings: Sampling, size: tuple[int, int], backend: str = "inductor") -> None:
        super().__init__(settings, size)
        self._draw: Any = torch.compile(self._drawn, backend=backend, dynamic=False)

    def __call__(self, inputs: Tensor, streams: Streams, slope: Slope = "none") -> tuple[Tensor, Tensor]:
        """As ``Sampler``."""
        if self._shares or slope == "raw" or inputs.dtype != torch.float32 or len(inputs) == 0:
            return super().__call__(inputs, streams, slope)
        x, streams = inputs.detach(), streams.to(inputs.device)
        q = self._drawn_acceptance(x, streams.fold("centres"))[:, :, None].expand(len(x), *(-1,) * 4)
        tensors = (x, q, *(streams.fold(role).keys for role in ("mask", "pixels", "off")))
        size = _TOGETHER if x.device.type == "cpu" else _TOGETHER_ON_DEVICE
        parts = [
            self._filled([one[first : first + size] for one in tensors], size, slope)
            for first in range(0, len(x), size)
        ]
        found = [torch.cat(column) for column in zip(*parts, strict=True)]
        views, exposure = found[0], found[1]
        if slope == "none":
            return views, exposure
        cells = torch.cat(self._cells(inputs), dim=1)
        return self._finished(sampling.attached(sampling.Sampled(views, found[2]), cells), exposure)

    def _filled(self, tensors: list[Tensor], size: int, slope: Slope) -> list[Tensor]:
        """The program on as many examples as it was made for; the last is repeated where there are fewer."""
        count = len(tensors[0])
        if count < size:
            rows = torch.arange(size, device=tensors[0].device).clamp_max(count - 1)
            tensors = [one[rows] for one in tensors]
        return [one[:count] for one in self._draw(*tensors, slope)]

    def _drawn(self, x: Tensor, q: Tensor, mask: Tensor, pixels: Tensor, off: Tensor, slope: Slope) -> list[Tensor]:
        """Views and exposure; where slopes are asked for, the views as they are before they are finished, and these."""
        settings = self.settings
        each = (settings.loops, settings.samples)
        masks = sampling.kept(q, _numbers(mask, (*each, *x.shape[2:])))
        found = []
        for cells, keys in zip(self._cells(x), (pixels, off), strict=False):
            noise = _numbers(keys, (*each, *x.shape[1:])) * 2 - 1
            found.append(sampling.sampled(cells, noise, masks, settings.amplitude, slope))
        views, exposure = torch.cat([one.view for one in found], dim=2), sampling.exposure_of(masks).to(x.dtype)
        if slope == "none":
            return list(self._finished(views, exposure))
        return [views, exposure, torch.cat([one.slope for one in found if one.slope is not None], dim=2)]


def _numbers(keys: Tensor, shape: tuple[int, ...]) -> Tensor:
    return uniform_apart(keys, math.prod(shape)).view(len(keys), *shape)
