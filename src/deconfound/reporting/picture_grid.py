"""Rows of pictures with a word above each, as a figure."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import imread

from deconfound.errors import require
from deconfound.reporting.figures import house_style
from deconfound.reporting.inline_png import png_size
from deconfound.reporting.inline_svg import INK, SERIES
from deconfound.reporting.text import short

# Height of a row of pictures of width 1, with two lines of words above them.
_TALL = 1.4


@dataclass(frozen=True)
class Tile:
    """A base64 PNG, a word on what it is, and a class below that, wrong or not."""

    png: str
    kind: str
    word: str = ""
    wrong: bool = False


def grid_figure(rows: Sequence[Sequence[Tile]]) -> Figure:
    """Rows of tiles; an unreadable picture leaves its place empty.

    Raises:
        InputError: no picture at all.
    """
    require(any(rows), "record", len(rows), "an analysis with pictures")
    columns = max(map(len, rows))
    with house_style():
        # One drawing area for all: a grid of them takes seconds to lay out.
        figure = Figure(figsize=(0.95 * columns, 0.95 * _TALL * len(rows)))
        axes = figure.add_axes((0.01, 0.01, 0.98, 0.98))
        axes.set_xlim(0, columns)
        axes.set_ylim(_TALL * len(rows), 0)
        axes.set_aspect("equal")
        axes.set_axis_off()
        for place, row in enumerate(rows):
            for column, tile in enumerate(row):
                _draw(axes, column, _TALL * place, tile)
        return figure


def _draw(axes: Axes, left: float, top: float, tile: Tile) -> None:
    axes.text(left + 0.5, top + 0.15, short(tile.kind, 13), ha="center", fontsize=7.5, color=INK)
    colour = SERIES[1] if tile.wrong else INK
    axes.text(left + 0.5, top + 0.35, short(tile.word, 13), ha="center", fontsize=7.5, color=colour, fontweight="bold")
    if png_size(tile.png) == (0, 0):
        return
    pixels = imread(io.BytesIO(base64.b64decode(tile.png)), format="png")
    height, width = (0.92 * side / max(pixels.shape[:2]) for side in pixels.shape[:2])
    corner, floor = left + (1 - width) / 2, top + _TALL - 0.03
    box = (corner, corner + width, floor, floor - height)
    axes.imshow(pixels, cmap="gray", vmin=0, vmax=1, interpolation="nearest", extent=box, aspect="equal")


__all__ = ["Tile", "grid_figure"]
