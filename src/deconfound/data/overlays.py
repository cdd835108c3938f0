"""Confounders that can be put on any image: a texture in a corner, a tint of the whole.

Shapes: B images (B, C, H, W) in [0, 1], K classes; classes (B,) int64; codes (K, n, n) of 0 and 1.
"""

from __future__ import annotations

import colorsys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from deconfound.core.streams import Streams
from deconfound.errors import require, unknown_name

VEIL = 0.25  # share of the tint in a tinted image
SMALLEST_CODE = 4


class Overlay(Protocol):
    """Puts the mark of a class on an image, from streams and nothing else; pixels it leaves alone keep their bits."""

    def __call__(self, images: Tensor, classes: Tensor, streams: Streams, /) -> Tensor:
        """Images (B, C, H, W) with the marks of the classes (B,)."""
        ...

    @property
    def about(self) -> str:
        """What it is and how much of the image it takes, for records."""
        ...


@dataclass(frozen=True)
class Patch:
    """A square texture of the class in one of the four corners, drawn per example; its pixels are black and white.

    The textures are the rows of a Hadamard matrix (Walsh functions of n x n cells, without the constant one) and
    their complements, so that any two differ in at least half of their cells. n is the smallest power of two, at
    least 4, that has enough of them, and a cell is as many whole pixels wide as fit 4 n times into the shorter side s,
    at least one: the patch is between s / 8 and s / 4 wide, and n pixels where s is below 4 n, up to s / 2 (``about``
    says what it is: 4 of 28 pixels on MNIST, 2 % of the image; 4 of 16 on digits, 6 %). A mirrored texture
    is itself or its complement, so mirroring mistakes no class for another as long as K is at most n^2 - 1.

    Args:
        classes: K.
        shape: (C, H, W) of the images.

    Raises:
        InputError: more classes than there are textures that fit into half of the shorter side.

    >>> Patch(10, (1, 28, 28)).codes.shape
    torch.Size([10, 4, 4])
    >>> Patch(10, (1, 28, 28)).about
    'a texture of 4x4 pixels in a corner of 28x28, 2.0 % of the image'
    """

    classes: int
    shape: tuple[int, int, int]
    codes: Tensor = field(init=False, repr=False, compare=False)
    cell: int = field(init=False)

    def __post_init__(self) -> None:
        count, side = SMALLEST_CODE, min(self.shape[1:])
        while 2 * (count**2 - 1) < self.classes:
            count *= 2
        rule = f"images of at least {2 * count} pixels a side for {self.classes} textures (tint takes any image)"
        require(2 * count <= side, "data: patch", f"{self.shape[1]}x{self.shape[2]}", rule)
        rows = _walsh(count**2)[1:]
        object.__setattr__(self, "codes", torch.cat([rows, 1 - rows])[: self.classes].view(-1, count, count))
        object.__setattr__(self, "cell", max(1, side // (4 * count)))

    @property
    def about(self) -> str:
        """Its size beside that of the image."""
        (_, height, width), size = self.shape, self.codes.shape[-1] * self.cell
        share = size**2 / (height * width)
        return f"a texture of {size}x{size} pixels in a corner of {height}x{width}, {100 * share:.1f} % of the image"

    def __call__(self, images: Tensor, classes: Tensor, streams: Streams, /) -> Tensor:
        """The images with the texture of each one's class."""
        corner = streams.fold("corner").integers(0, 4).to(images.device)
        codes = self.codes.to(images)[classes]
        texture = codes.repeat_interleave(self.cell, dim=1).repeat_interleave(self.cell, dim=2)[:, None]
        size, marked = texture.shape[-1], images.clone()
        for place in range(4):
            here = corner == place
            rows = slice(None, size) if place < 2 else slice(-size, None)
            columns = slice(None, size) if place % 2 == 0 else slice(-size, None)
            region = marked[:, :, rows, columns]
            marked[:, :, rows, columns] = torch.where(here[:, None, None, None], texture, region)
        return marked


@dataclass(frozen=True)
class Tint:
    """A veil: x' = 3/4 x + 1/4 c_k. On RGB the c_k are hues evenly around the wheel, on grey levels evenly in [0, 1].

    Args:
        classes: K.
        shape: (C, H, W) of the images, C = 1 or 3.

    Raises:
        InputError: images of another number of channels.

    >>> [round(level, 2) for level in Tint(3, (1, 8, 8)).colours.flatten().tolist()]
    [0.0, 0.5, 1.0]
    """

    classes: int
    shape: tuple[int, int, int]
    colours: Tensor = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        channels, count = self.shape[0], self.classes
        require(channels in (1, 3), "data: tint", f"{channels} channels", "grey (1) or RGB (3) images")
        grey = [[place / max(count - 1, 1)] for place in range(count)]
        hues = [list(colorsys.hsv_to_rgb(place / count, 1.0, 1.0)) for place in range(count)]
        object.__setattr__(self, "colours", torch.tensor(grey if channels == 1 else hues))

    @property
    def about(self) -> str:
        """It takes the whole image."""
        return f"a tint of the whole image, {100 * VEIL:.0f} % of each pixel"

    def __call__(self, images: Tensor, classes: Tensor, streams: Streams, /) -> Tensor:
        """The images under the veil of each one's class; nothing is drawn."""
        return images * (1 - VEIL) + self.colours.to(images)[classes][:, :, None, None] * VEIL


class Mark(NamedTuple):
    """What makes an overlay, from the number of classes and the images' (C, H, W), and what it is, in a few words."""

    make: Callable[[int, tuple[int, int, int]], Overlay]
    what: str


OVERLAYS: Mapping[str, Mark] = MappingProxyType(
    {
        "patch": Mark(Patch, "a texture in a corner"),
        "tint": Mark(Tint, "a tint of the whole image"),
    }
)
"""The overlays by the names that data names have behind their plus sign."""


def overlay(kind: str, classes: int, shape: tuple[int, int, int]) -> Overlay:
    """The overlay of that name, one of ``OVERLAYS``.

    Raises:
        InputError: another name, or images that it cannot be put on.
    """
    if kind not in OVERLAYS:
        raise unknown_name("data: confounder", kind, OVERLAYS)
    return OVERLAYS[kind].make(classes, shape)


def _walsh(order: int) -> Tensor:
    """Sylvester's Hadamard matrix of a power of two with 0 and 1 for +1 and -1: entry (i, j) is the parity of i & j."""
    places = torch.arange(order)
    common, parity = places[:, None] & places, torch.zeros(order, order, dtype=torch.int64)
    while bool(common.any()):
        parity ^= common & 1
        common = common >> 1
    return parity.to(torch.float32)
