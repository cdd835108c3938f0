"""Dark shapes on bright coloured patches: from the variables of a scene to pixels.

Shapes: B examples; images (B, 3, 64, 64) uint8, outlines (B, 64, 64) bool, patches (B, 3, 16, 16).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from deconfound.core.streams import Streams

CLASS_NAMES = ("disc", "square", "triangle")
SIDE = 64
CELL = 4  # pixels of a patch, per side
SMALLEST, LARGEST = 15.0, 25.0  # radii

# Levels of 255. A patch is one of the colours or grey, brighter or darker by at most JITTER; NOISE is per pixel and
# channel. The lowest bright pixel (130) is well above the highest dark one (50), so that the shape is never in doubt.
COLOURS = ((225, 155, 155), (155, 225, 155), (155, 155, 225))
GREY = (190, 190, 190)
DARK = 40
JITTER, NOISE = 15, 10
COLOURED = 0.5  # share of the patches that carry the colour


class Scene(NamedTuple):
    """The variables of B images: what is drawn, whose colour the patches have, where and how large, and the rest."""

    shape: Tensor
    colour: Tensor
    radius: Tensor
    row: Tensor
    column: Tensor
    streams: Streams


def placed(shape: Tensor, colour: Tensor, streams: Streams) -> Scene:
    """A scene with radius ~ U(15, 25) and a centre that keeps the circle of that radius in the image.

    Args:
        shape: (B,) int64, a place in ``CLASS_NAMES``.
        colour: (B,) int64, likewise.
        streams: one per example; radius, position, patches and noise are folds of it, so that setting one variable
            leaves the others as they are.
    """
    radius = SMALLEST + (LARGEST - SMALLEST) * streams.fold("radius").uniform(dtype=torch.float64)
    centre = streams.fold("position").uniform((2,), torch.float64) * (SIDE - 2 * radius)[:, None] + radius[:, None]
    return Scene(shape, colour, radius, centre[:, 0], centre[:, 1], streams)


def outlines(scene: Scene) -> Tensor:
    """Which pixels (by their centres) the shape covers, (B, 64, 64) bool.

    disc: |d| <= r;  square: max |d_i| <= r / sqrt 2;  triangle, upright: dy <= r/2 and |dx| <= (dy + r) / sqrt 3; each
    is inscribed in the circle of radius r around the centre.
    """
    middles = torch.arange(SIDE, dtype=torch.float64) + 0.5
    down = (middles - scene.row[:, None])[:, :, None]
    across = (middles - scene.column[:, None])[:, None, :].abs()
    r = scene.radius[:, None, None]
    disc = down.square() + across.square() <= r.square()
    square = torch.maximum(down.abs(), across) <= r / math.sqrt(2)
    triangle = (down <= r / 2) & (across <= (down + r) / math.sqrt(3))
    kind = scene.shape[:, None, None]
    return torch.where(kind == 0, disc, torch.where(kind == 1, square, triangle))


def patches(scene: Scene) -> Tensor:
    """The colour of every patch, (B, 3, 16, 16) int16: each is the scene's colour with probability 1/2, else grey."""
    count = SIDE // CELL
    draws = scene.streams.fold("patches")
    coloured = draws.fold("coloured").uniform((1, count, count)) < COLOURED
    brightness = draws.fold("brightness").integers(-JITTER, JITTER + 1, (1, count, count)).to(torch.int16)
    colours, grey = torch.tensor(COLOURS, dtype=torch.int16), torch.tensor(GREY, dtype=torch.int16)
    return torch.where(coloured, colours[scene.colour][:, :, None, None], grey[:, None, None]) + brightness


def draw(scene: Scene) -> Tensor:
    """The images, (B, 3, 64, 64) uint8: the dark shape before the patches, plus noise."""
    bright = patches(scene).repeat_interleave(CELL, dim=2).repeat_interleave(CELL, dim=3)
    levels = scene.streams.fold("noise").levels((3, SIDE, SIDE)).to(torch.int16)
    noise = (levels * (2 * NOISE + 1) >> 8) - NOISE
    return (bright.masked_fill(outlines(scene)[:, None], DARK) + noise).to(torch.uint8)
