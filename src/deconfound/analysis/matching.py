"""Images whose features match given ones: Fourier parametrisation, jitter, total variation.

Shapes: B images (B, C, H, W) in [0, 1], D features; features and targets (B, D); spectrum (B, C, H, W // 2 + 1, 2).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from deconfound.core.streams import Streams
from deconfound.errors import require, require_whole

# Of the first spectrum, so that a search begins close to grey.
_DEVIATION = 0.01
_TINY = 1e-12


@dataclass(frozen=True, kw_only=True)
class Matching:
    """How a picture is searched for.

    Attributes:
        steps: of Adam.
        lr: its learning rate, on the scaled spectrum.
        jitter: largest shift in pixels at each step; None for one in 32 of the shorter side, at least 1.
        tv: weight of the total variation, the mean of |x_(i+1) - x_i| over both axes.

    Raises:
        InputError: a setting out of range.
    """

    steps: int = 256
    lr: float = 0.05
    jitter: int | None = None
    tv: float = 0.05

    def __post_init__(self) -> None:
        require_whole("steps", self.steps)
        require(0 < self.lr < float("inf"), "lr", self.lr, "a number above 0")
        require_whole("jitter", self.jitter, 0, optional=True)
        require(0 <= self.tv < float("inf"), "tv", self.tv, "a number of at least 0")

    def shift(self, height: int, width: int) -> int:
        """Largest shift of images of this size, below a whole side."""
        wanted = max(1, min(height, width) // 32) if self.jitter is None else self.jitter
        return min(wanted, min(height, width) - 1)

    def settings(self) -> dict[str, Any]:
        """As plain data for records."""
        return {"steps": self.steps, "lr": self.lr, "jitter": self.jitter, "tv": self.tv, "images": "fourier"}


def match_features(
    features: Callable[[Tensor], Tensor],
    targets: Tensor,
    shape: tuple[int, int, int],
    streams: Streams,
    matching: Matching | None = None,
    *,
    after: Callable[[int], None] | None = None,
) -> Tensor:
    """Images x with features near to the targets, each searched for by itself.

    min over x of |f(shifted x) - f*|^2 / |f*|^2 + tv TV(x), x = sigmoid(inverse Fourier transform of s / frequency).

    Args:
        features: f, images (B, C, H, W) -> (B, D); differentiable.
        targets: f*, (B, D).
        shape: (C, H, W) of the images.
        streams: one for each image, of its first spectrum and its shifts.
        matching: how they are searched for.
        after: told how many steps are done.

    Returns:
        Images (B, C, H, W) in [0, 1].

    Source: Olah, Mordvintsev, Schubert 2017, "Feature Visualization". Departures: no decorrelation of colours, which
    presumes the statistics of ImageNet; shifts alone, without rotation and scaling.
    """
    matching = matching or Matching()
    height, width = shape[1:]
    shift, scale = matching.shift(height, width), frequency_scale(height, width).to(targets.device)
    start = streams.fold("spectrum").normal((shape[0], height, width // 2 + 1, 2)).to(targets)
    spectrum = (start * _DEVIATION).requires_grad_()
    size = targets.square().sum(dim=1).clamp_min(_TINY)
    optimiser = torch.optim.Adam([spectrum], lr=matching.lr)
    for step in range(matching.steps):
        with torch.enable_grad():
            images = from_spectrum(spectrum, scale, (height, width))
            moved = shifted(images, streams.fold("shift", step), shift)
            apart = (features(moved) - targets).square().sum(dim=1) / size
            loss = (apart + matching.tv * total_variation(images)).sum()
        # Not backward(): parameters of the network keep their own gradients.
        (spectrum.grad,) = torch.autograd.grad(loss, spectrum)
        optimiser.step()
        if after is not None:
            after(step + 1)
    return from_spectrum(spectrum.detach(), scale, (height, width))


def frequency_scale(height: int, width: int) -> Tensor:
    """sqrt(H W) / 4 / frequency of each coefficient, the lowest counted as 1 / max(H, W): (H, W // 2 + 1)."""
    rows, columns = torch.fft.fftfreq(height)[:, None], torch.fft.rfftfreq(width)[None]
    frequency = (rows.square() + columns.square()).sqrt().clamp_min(1 / max(height, width))
    return float(height * width) ** 0.5 / (4 * max(height, width) * frequency)


def from_spectrum(spectrum: Tensor, scale: Tensor, size: tuple[int, int]) -> Tensor:
    """Images (B, C, H, W) in (0, 1) of a spectrum."""
    coefficients = torch.view_as_complex((spectrum * scale[..., None]).contiguous())
    return torch.fft.irfft2(coefficients, s=size, norm="ortho").sigmoid()


def shifted(images: Tensor, streams: Streams, most: int) -> Tensor:
    """Each image shifted by up to ``most`` pixels along both axes, its border repeated.

    >>> x = torch.rand(2, 1, 4, 5)
    >>> torch.equal(shifted(x, Streams(0, [0, 1]), 0), x)
    True
    """
    if most == 0:
        return images
    height, width = images.shape[2:]
    moves = streams.integers(-most, most + 1, (2,)).to(images.device)
    rows = (torch.arange(height, device=images.device) + moves[:, :1]).clamp(0, height - 1)
    columns = (torch.arange(width, device=images.device) + moves[:, 1:]).clamp(0, width - 1)
    which = torch.arange(len(images), device=images.device)
    return images[which[:, None, None], :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def total_variation(images: Tensor) -> Tensor:
    """Mean absolute difference of neighbours along both axes, (B,).

    >>> total_variation(torch.tensor([[[[0.0, 1.0], [0.0, 1.0]]]])).tolist()
    [1.0]
    """
    down = (images[:, :, 1:] - images[:, :, :-1]).abs().flatten(1)
    across = (images[..., 1:] - images[..., :-1]).abs().flatten(1)
    return sum((part.mean(dim=1) for part in (down, across) if part.shape[1]), images.new_zeros(len(images)))


def cosine(features: Tensor, targets: Tensor) -> Tensor:
    """Cosine of each row with its target, (B,)."""
    return F.cosine_similarity(features.double(), targets.double(), dim=1)


__all__ = ["Matching", "cosine", "from_spectrum", "match_features", "shifted", "total_variation"]
