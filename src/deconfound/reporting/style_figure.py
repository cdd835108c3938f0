"""Figures of a content/style analysis: accuracies before and after the attack, and neighbours in style space."""

from __future__ import annotations

import base64
import io

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import imread
from matplotlib.lines import Line2D
from matplotlib.ticker import PercentFormatter

from deconfound.errors import require
from deconfound.records import StyleQuery, StyleRecord
from deconfound.reporting.figures import house_style, settled
from deconfound.reporting.inline_svg import INK, MUTED, SERIES
from deconfound.reporting.style_rows import reader_rows
from deconfound.reporting.text import class_name, short

# Height of a row of pictures of width 1, with the words above them.
_TALL = 1.25

_LOOKS = {"natural": (SERIES[0], "o", -0.14), "adversarial": (SERIES[1], "D", 0.14)}


def readers_figure(record: StyleRecord) -> Figure:
    """Content, and style on each basis, before and after the attack: dots with 95 % intervals, and a line at chance."""
    rows = reader_rows(record)
    with house_style():
        figure = Figure(figsize=(5.2, 1.0 + 0.42 * len(rows)), layout="constrained")
        axes = figure.add_subplot()
        axes.axvline(1 / max(len(record.class_names), 1), color=MUTED, linestyle=":", linewidth=1.4)
        for place, row in enumerate(rows):
            for version, (colour, marker, offset) in _LOOKS.items():
                found = getattr(row.reader, version)
                _dot(axes, place + offset, found.share, found.interval, colour, marker)
        axes.set_yticks(range(len(rows)), [short(row.name, 34) for row in rows])
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_xlim(0, 1)
        axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        axes.set_xlabel("accuracy")
        axes.grid(visible=False, axis="y")
        axes.tick_params(left=False)
        handles = [Line2D([], [], color=c, marker=m, linestyle="none") for c, m, _ in _LOOKS.values()]
        handles.append(Line2D([], [], color=MUTED, linestyle=":"))
        figure.legend(handles, [*_LOOKS, "chance"], loc="outside lower left", ncols=3, columnspacing=1.4)
        return settled(figure)


def _dot(axes: Axes, place: float, share: float, ends: tuple[float, float], colour: str, marker: str) -> None:
    axes.plot(ends, [place, place], color=colour, linewidth=2.2, solid_capstyle="butt")
    # Not clipped: a dot at 0 % is the one that matters most.
    axes.plot([share], [place], color=colour, marker=marker, markersize=6, linestyle="none", clip_on=False, zorder=3)


def neighbours_figure(record: StyleRecord) -> Figure:
    """One row for each query: the image, then its nearest neighbours in style space with their classes.

    Raises:
        InputError: a record without queries.
    """
    queries = record.queries
    require(bool(queries), "record", record.n, "an analysis with queries, which needs two images")
    columns = 1 + max(len(query.neighbours) for query in queries)
    with house_style():
        # One drawing area for all: a grid of them takes seconds to lay out.
        figure = Figure(figsize=(0.95 * columns, 1.15 * len(queries)))
        axes = figure.add_axes((0.01, 0.01, 0.98, 0.98))
        axes.set_xlim(0, columns)
        axes.set_ylim(_TALL * len(queries), 0)
        axes.set_aspect("equal")
        axes.set_axis_off()
        for place, query in enumerate(queries):
            _row(axes, _TALL * place, query, record.class_names)
        return figure


def _row(axes: Axes, top: float, query: StyleQuery, names: tuple[str, ...]) -> None:
    shown = [(query.png, query.label), *((near.png, near.label) for near in query.neighbours)]
    for place, (picture, label) in enumerate(shown):
        pixels = imread(io.BytesIO(base64.b64decode(picture)), format="png")
        height, width = (0.92 * side / max(pixels.shape[:2]) for side in pixels.shape[:2])
        corner, floor = place + (1 - width) / 2, top + _TALL - 0.03
        box = (corner, corner + width, floor, floor - height)
        axes.imshow(pixels, cmap="gray", vmin=0, vmax=1, interpolation="nearest", extent=box, aspect="equal")
        colour = SERIES[1] if label != query.label else INK
        weight = "normal" if place else "bold"
        words = short(class_name(names, label), 11)
        axes.text(place + 0.5, top + 0.22, words, ha="center", fontsize=8, color=colour, fontweight=weight)


__all__ = ["neighbours_figure", "readers_figure"]
