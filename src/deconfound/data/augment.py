"""Random changes of training images, on whole batches on their device.

Each draw comes from the example's own stream: it depends neither on the batch nor on the process. Output stays within
[0, 1] and keeps dtype, device and memory format.

Shapes: B examples, images (B, C, H, W) float in [0, 1]; tops, lefts (B,) int64; degrees (B,) float; flips (B,) bool.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, cast

import torch
from torch import Tensor
from torch.nn import functional as F

from deconfound.core.protocols import Augmentation
from deconfound.core.streams import Streams
from deconfound.errors import InputError, is_whole, require
from deconfound.functional.rotation import transformed

Padding = Literal["zero", "reflect"]
PADDINGS: tuple[Padding, ...] = ("zero", "reflect")


def crop(images: Tensor, tops: Tensor, lefts: Tensor, padding: int, mode: Padding = "zero") -> Tensor:
    """Windows of the images' own size from images padded on all sides.

    ``out[b, c, i, j] = padded[b, c, tops[b] + i, lefts[b] + j]``

    Args:
        images: (B, C, H, W).
        tops, lefts: (B,) int64 in [0, 2 padding].
        padding: pixels added on each side.
        mode: ``zero``, or ``reflect`` without repeating the edge.

    Raises:
        InputError: reflection by as much as the image's side or more.
    """
    count, channels, height, width = images.shape
    if mode == "reflect" and padding >= min(height, width):
        raise InputError("padding", padding, f"less than the side of the images ({height}x{width}) to reflect")
    padded = F.pad(images, (padding,) * 4, mode="constant" if mode == "zero" else "reflect")
    rows = tops[:, None] + torch.arange(height, device=images.device)
    columns = lefts[:, None] + torch.arange(width, device=images.device)
    # One gather of flat places: four times as fast as grid_sample, and exact.
    places = (rows[:, :, None] * (width + 2 * padding) + columns[:, None, :]).view(count, 1, -1)
    window = padded.flatten(2).gather(2, places.expand(-1, channels, -1))
    return _formatted_like(images, window.view(images.shape))


def flip(images: Tensor, flips: Tensor) -> Tensor:
    """Left and right exchanged where ``flips`` holds: (B, C, H, W)."""
    return _formatted_like(images, torch.where(flips.view(-1, 1, 1, 1), images.flip(-1), images))


def rotate(images: Tensor, degrees: Tensor) -> Tensor:
    """Each image turned counter-clockwise about its centre; bilinear, zero outside, clipped to [0, 1].

    ``out(p) = image(R(degrees)^-1 p)`` with p in pixels from the centre, so that images that are not square keep
    their proportions.
    """
    work = images if images.dtype == torch.float64 else images.to(torch.float32)
    return _formatted_like(images, transformed(work, degrees).clamp_(0, 1).to(images.dtype))


def _formatted_like(images: Tensor, changed: Tensor) -> Tensor:
    last = not images.is_contiguous() and images.is_contiguous(memory_format=torch.channels_last)
    return changed.contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)


def _on(streams: Streams, images: Tensor) -> Streams:
    require(len(streams) == len(images), "streams", len(streams), f"one stream for each of the {len(images)} images")
    return streams if streams.device == images.device else streams.to(images.device)


@dataclass(frozen=True)
class RandomCrop:
    """A window of the image's size, uniform over the image padded by ``padding`` pixels (zero or reflected).

    Raises:
        InputError: negative padding, an unknown mode; on use, reflection wider than the image.

    >>> images = torch.rand(2, 1, 4, 4)
    >>> RandomCrop(1)(images, Streams(0, [0, 1])).shape
    torch.Size([2, 1, 4, 4])
    """

    padding: int
    mode: Padding = "zero"

    def __post_init__(self) -> None:
        whole = is_whole(self.padding)
        require(whole and self.padding >= 0, "crop", self.padding, "a number of pixels, at least 0")
        require(self.mode in PADDINGS, "padding", self.mode, f"one of {', '.join(PADDINGS)}")

    def __call__(self, images: Tensor, streams: Streams, /) -> Tensor:
        """Images (B, C, H, W), each cropped by its own stream."""
        corners = _on(streams, images).fold("crop").integers(0, 2 * self.padding + 1, (2,))
        return crop(images, corners[:, 0], corners[:, 1], self.padding, self.mode)


@dataclass(frozen=True)
class RandomFlip:
    """Left and right exchanged with probability ``p``.

    Raises:
        InputError: ``p`` outside [0, 1].
    """

    p: float = 0.5

    def __post_init__(self) -> None:
        require(0 <= self.p <= 1, "flip", self.p, "a probability in [0, 1]")

    def __call__(self, images: Tensor, streams: Streams, /) -> Tensor:
        """Images (B, C, H, W), each flipped or not by its own stream."""
        return flip(images, _on(streams, images).fold("flip").uniform() < self.p)


@dataclass(frozen=True)
class RandomRotation:
    """A rotation about the centre by an angle uniform in [-degrees, degrees]; see ``rotate``.

    Raises:
        InputError: ``degrees`` outside [0, 180].
    """

    degrees: float

    def __post_init__(self) -> None:
        valid = math.isfinite(self.degrees) and 0 <= self.degrees <= 180
        require(valid, "rotation", self.degrees, "an angle in degrees in [0, 180]")

    def __call__(self, images: Tensor, streams: Streams, /) -> Tensor:
        """Images (B, C, H, W), each turned by its own stream."""
        uniform = _on(streams, images).fold("rotation").uniform()
        return rotate(images, (2 * uniform - 1) * self.degrees)


@dataclass(frozen=True)
class Compose:
    """One change after another; each gets streams of its own. Without any, the images as they are.

    >>> Compose()(torch.ones(1, 1, 2, 2), Streams(0, [0])).sum().item()
    4.0
    """

    parts: Sequence[Augmentation] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "parts", tuple(self.parts))

    def __call__(self, images: Tensor, streams: Streams, /) -> Tensor:
        """Images (B, C, H, W) after all parts."""
        for place, part in enumerate(self.parts):
            images = part(images, streams.fold("part", place))
        return images


def build(crop: int = 0, padding: str = "zero", flip: bool = False, rotation: float = 0.0) -> Compose:
    """The augmentation of a recipe: crop, then flip, then rotation; what is 0 or False is left out.

    Args:
        crop: padding of the random crop in pixels.
        padding: ``zero`` or ``reflect``.
        flip: exchange left and right in half of the images.
        rotation: largest angle in degrees.

    Raises:
        InputError: a value that one of the parts does not accept.

    >>> build(crop=4, flip=True).parts
    (RandomCrop(padding=4, mode='zero'), RandomFlip(p=0.5))
    """
    parts: list[tuple[bool, Augmentation]] = [
        (crop != 0, RandomCrop(crop, cast(Padding, padding))),
        (flip, RandomFlip()),
        (rotation != 0, RandomRotation(rotation)),
    ]
    return Compose(tuple(part for asked, part in parts if asked))
