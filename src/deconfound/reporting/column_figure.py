"""The columns of an evaluation as dots with intervals: what was seen against everything that was not."""

from __future__ import annotations

import math

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import PercentFormatter

from deconfound.errors import require
from deconfound.records import EvaluationRecord
from deconfound.reporting.columns import GROUPS, OWN, Row, column_rows
from deconfound.reporting.figures import house_style, settled
from deconfound.reporting.inline_svg import INK, MUTED, SERIES
from deconfound.reporting.text import short

_LOOKS = {
    "seen": (SERIES[0], "o"),
    "robust": (SERIES[0], "o"),
    "column": (SERIES[1], "s"),
    "alone": (SERIES[1], "s"),
    "transfer": (SERIES[2], "D"),
    "norm": (SERIES[1], "s"),
    "beyond": (SERIES[2], "D"),
    "union": (INK, "^"),
}


def columns_figure(record: EvaluationRecord) -> Figure:
    """One dot with its 95 % interval for each attacker; a corruption has its mean, and a tick for each severity.

    Dots are hollow where the verdict is unreliable.

    Raises:
        InputError: a record without columns.
    """
    rows = column_rows(record)
    require(bool(rows), "record", record.suite, "an evaluation with columns")
    groups = list(dict.fromkeys(row.group for row in rows))
    with house_style():
        figure = Figure(figsize=(5.2, 0.9 + 0.27 * len(rows)), layout="constrained")
        axes = figure.add_subplot()
        for place, row in enumerate(rows):
            _draw(axes, place, row, reliable=record.verdict.reliable)
        axes.set_yticks(range(len(rows)), [short(_label(row), 24) for row in rows])
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_xlim(0, 1)
        axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        axes.set_xlabel("accuracy" if record.verdict.reliable else "accuracy, UNRELIABLE")
        axes.grid(visible=False, axis="y")
        axes.tick_params(left=False)
        handles = [_handle(group, reliable=record.verdict.reliable) for group in groups]
        names = [GROUPS.get(group, short(group, 16)) for group in groups]
        figure.legend(handles, names, loc="outside lower left", ncols=4, handlelength=1.2, columnspacing=1.4)
        return settled(figure)


def _label(row: Row) -> str:
    return f"{GROUPS[row.group]}, {row.bound}" if row.group in OWN else row.name


def _draw(axes: Axes, place: int, row: Row, *, reliable: bool) -> None:
    colour, marker = _look(row.group)
    axes.plot(row.interval, [place, place], color=colour, linewidth=2.2, solid_capstyle="butt")
    shares = [column.accuracy for column in row.severities]
    axes.plot(shares, [place] * len(shares), color=MUTED, marker="|", markersize=9, linestyle="none", clip_on=False)
    face = colour if reliable else "none"
    # Not clipped: a dot at 0 % is the one that matters most.
    axes.plot(
        [row.share], [place],
        color=colour, marker=marker, markersize=6, markerfacecolor=face, linestyle="none", clip_on=False, zorder=3,
    )  # fmt: skip
    if math.isfinite(row.share):
        axes.text(1.02, place, f"{100 * row.share:.1f}", va="center")


def _handle(group: str, *, reliable: bool) -> Line2D:
    colour, marker = _look(group)
    face = colour if reliable else "none"
    return Line2D([], [], color=colour, marker=marker, linestyle="none", markerfacecolor=face)


def _look(group: str) -> tuple[str, str]:
    return _LOOKS.get(group, (SERIES[3], "v"))


__all__ = ["columns_figure"]
