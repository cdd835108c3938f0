"""Convex pairs of images (mixup).

Shapes: B examples; images (B, C, H, W), partner (B,) int64, weight (B,).
"""

from __future__ import annotations

from typing import Protocol

import torch
from scipy import special
from torch import Tensor

from deconfound.errors import require


class Draws(Protocol):
    """One random stream per example, as ``core.streams.Streams``."""

    def fold(self, *names: int | str) -> Draws:
        """Independent streams for a named purpose."""
        ...

    def uniform(self, shape: tuple[int, ...] = (), dtype: torch.dtype = torch.float32) -> Tensor:
        """Uniform numbers in (0, 1), (B, *shape)."""
        ...


def mix(images: Tensor, streams: Draws, alpha: float) -> tuple[Tensor, Tensor, Tensor]:
    """Each image of a batch with another: x~_i = w_i x_i + (1 - w_i) x_partner(i), w_i ~ Beta(alpha, alpha).

    The partner is a permutation of the batch, all permutations alike: the example of rank r in one row of uniform
    numbers gets the example of rank r in another. It follows from the streams alone, so the same examples are paired
    whatever their order in the batch; it depends on who is in the batch, and so on its size.

    Args:
        images: (B, C, H, W).
        streams: one per example.
        alpha: above 0; 1 makes the weight uniform.

    Returns:
        The mixed images (B, C, H, W); partner (B,) int64, places in the batch; weight (B,) in [0, 1], of one's own
        image and label, with the dtype of the images.

    Raises:
        InputError: alpha not above 0.

    Source: Zhang et al. 2018 (arXiv 1710.09412), equation 1. Departure from the authors' code: a weight per pair, as in
    the paper, not one per batch.

    >>> from deconfound.core.streams import Streams
    >>> mixed, partner, weight = mix(torch.eye(3).view(3, 3, 1, 1), Streams(0, range(3)), 1.0)
    >>> torch.allclose(mixed.flatten(1), torch.diag(weight) + torch.diag(1 - weight) @ torch.eye(3)[partner])
    True
    """
    check_alpha(alpha)
    first = streams.fold("first").uniform(dtype=torch.float64).argsort()
    second = streams.fold("second").uniform(dtype=torch.float64).argsort()
    partner = torch.empty_like(first).scatter_(0, first, second)
    weight = _beta(streams.fold("weight").uniform(dtype=torch.float64), alpha).to(images)
    own = weight.view(-1, *[1] * (images.ndim - 1))
    return own * images + (1 - own) * images[partner], partner, weight


def mixed_accuracy(logits: Tensor, own: Tensor, other: Tensor, weight: Tensor) -> Tensor:
    """Mean weight that the predicted class has in the mixture: w [argmax = y] + (1 - w) [argmax = y'].

    Args:
        logits: of the mixed images, (B, K).
        own: labels y of the images themselves, (B,) int64.
        other: labels y' of their partners, (B,) int64.
        weight: of one's own, (B,) in [0, 1].

    Returns:
        A scalar in [0, 1] without a gradient.

    >>> mixed_accuracy(torch.eye(2), torch.tensor([0, 0]), torch.tensor([1, 1]), torch.tensor([0.75, 0.5])).item()
    0.625
    """
    predicted = logits.detach().argmax(dim=1)
    return (weight * (predicted == own) + (1 - weight) * (predicted == other)).mean()


def check_alpha(alpha: float) -> None:
    """Beta(alpha, alpha) needs an alpha above 0.

    Raises:
        InputError: anything else.
    """
    require(0 < alpha < float("inf"), "alpha", alpha, "a number above 0")


def _beta(uniform: Tensor, alpha: float) -> Tensor:
    """Beta(alpha, alpha) by its inverse distribution function, computed on the processor; (B,) float64."""
    if alpha == 1:
        return uniform
    return torch.from_numpy(special.betaincinv(alpha, alpha, uniform.cpu().numpy())).to(uniform.device)
