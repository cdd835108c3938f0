"""Normalisation inside the network, so that every classifier takes raw pixels.

Shapes: B examples, C channels, H height, W width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, fx, nn

from deconfound.errors import InputError, require

Levels = float | Sequence[float] | None
"""One value for all channels, one per channel, or None for no normalisation."""


def expect_images(images: Tensor, channels: int, size: tuple[int, int] | None) -> Tensor:
    """The images as they are.

    Without this check a grey image would broadcast against a three-channel mean and pass unnoticed.

    Raises:
        InputError: not (B, C, H, W) with C = ``channels``, or (H, W) other than ``size``.
    """
    if images.ndim != 4 or images.shape[1] != channels:
        raise InputError("images", f"shape {tuple(images.shape)}", f"shape (B, {channels}, H, W)")
    if size is not None and tuple(images.shape[2:]) != size:
        rule = f"{size[0]} x {size[1]} pixels, the size that the network was built for"
        raise InputError("images", f"{images.shape[2]} x {images.shape[3]} pixels", rule)
    return images


fx.wrap("expect_images")  # one opaque node, so that networks stay traceable


def _values(field: str, given: float | Sequence[float], channels: int) -> Tensor:
    try:
        numbers = [float(given)] if isinstance(given, int | float) else [float(value) for value in given]
    except (TypeError, ValueError):
        raise InputError(field, given, "a number, or one number per channel") from None
    require(len(numbers) in (1, channels), field, given, f"one number, or {channels}, one per channel")
    require(all(map(math.isfinite, numbers)), field, given, "finite numbers")
    require(field != "std" or min(numbers) > 0, field, given, "numbers greater than 0")
    if len(numbers) == 1:
        numbers *= channels
    return torch.tensor(numbers).view(channels, 1, 1)


class Normalise(nn.Module):
    """(images - mean) / std per channel.

    Mean and std are buffers outside the state dict: they belong to the configuration, so weights that were trained
    with the normalisation elsewhere fit as they are.

    Args:
        mean: one number or one per channel, in pixels of [0, 1]; None (together with ``std``) for no normalisation.
        std: likewise, greater than 0.
        channels: C.
        size: (H, W) of the only images to accept; None for any.

    Raises:
        InputError: only one of the two, a wrong count, a value that is not finite, a std of 0 or less; when called,
            images that are not (B, C, H, W) or of another size.

    >>> Normalise(0.5, 0.25, channels=3)(torch.ones(1, 3, 1, 1)).flatten().tolist()
    [2.0, 2.0, 2.0]
    """

    mean: Tensor | None
    std: Tensor | None

    def __init__(
        self, mean: Levels = None, std: Levels = None, *, channels: int, size: tuple[int, int] | None = None
    ) -> None:
        super().__init__()
        self.channels, self.size = channels, size
        if (mean is None) != (std is None):
            raise InputError("std" if std is None else "mean", None, "mean and std together, or neither")
        self.register_buffer("mean", None if mean is None else _values("mean", mean, channels), persistent=False)
        self.register_buffer("std", None if std is None else _values("std", std, channels), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, C, H, W) -> (B, C, H, W)."""
        images = expect_images(images, self.channels, self.size)
        if self.mean is None or self.std is None:
            return images
        return (images - self.mean) / self.std

    def extra_repr(self) -> str:
        """Mean and std, for printing."""
        if self.mean is None or self.std is None:
            return f"channels={self.channels}"
        return f"mean={self.mean.flatten().tolist()}, std={self.std.flatten().tolist()}"
