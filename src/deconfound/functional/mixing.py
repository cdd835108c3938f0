"""Mixup: convex combinations of pairs of examples (Zhang et al. 2018, arXiv 1710.09412).

Shapes: B examples; images (B, C, H, W), partner (B,) int64, weight (B,).
"""

from __future__ import annotations

from typing import Protocol

import torch
from scipy import special
from torch import Tensor


class _Streams(Protocol):
    def fold(self, *names: int | str) -> _Streams: ...

    def uniform(self, shape: tuple[int, ...] = (), dtype: torch.dtype = torch.float32) -> Tensor: ...


def mix(images: Tensor, streams: _Streams, alpha: float) -> tuple[Tensor, Tensor, Tensor]:
    """W x + (1 - w) x_partner, w from Beta(alpha, alpha) for each example.

    Args:
        images: (B, C, H, W).
        streams: one for each example.
        alpha: above 0.

    Returns:
        Mixed images, partner (B,) and weight w (B,).
    """
    partner = streams.fold("partner").uniform((), torch.float64).argsort()
    u = streams.fold("weight").uniform((), torch.float64)
    drawn = special.betaincinv(alpha, alpha, u.cpu().numpy())
    weight = torch.from_numpy(drawn).to(images)
    w = weight.view(-1, *[1] * (images.ndim - 1))
    return w * images + (1 - w) * images[partner], partner, weight
