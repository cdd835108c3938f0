"""A study as one picture: what every method withstands, seed by seed, beside its clean accuracy."""

from __future__ import annotations

from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import PercentFormatter
from matplotlib.typing import FillStyleType

from deconfound.errors import require
from deconfound.records import StudyRecord
from deconfound.records.studies import robust
from deconfound.reporting.figures import house_style, settled
from deconfound.reporting.inline_svg import INK, SERIES
from deconfound.reporting.study_leaderboard import leaderboard_grid, questions
from deconfound.reporting.text import short

_ROBUST, _CLEAN, _DOUBTED = SERIES[0], SERIES[4], SERIES[1]


def study_figure(record: StudyRecord) -> Figure:
    """One row for each method, in the leaderboard's order: a dot with its 95 % Wilson interval for each seed.

    Hollow dots are clean accuracies; a cross is a result that has a verdict against it.

    Args:
        record: of the study.

    Raises:
        InputError: nothing was judged.
    """
    asked = questions(record)
    require(bool(asked), "record.runs", len(record.runs), "at least one judged run")
    names = [row[0] for row in leaderboard_grid(record).rows]
    with house_style():
        figure = Figure(figsize=(6.4, 1.0 + 0.27 * len(names)), layout="constrained")
        axes = figure.add_subplot()
        for place, name in enumerate(names):
            found = [one for run in record.runs if run.name == name for one in run.results if one.question == asked[0]]
            for number, one in enumerate(found):
                height = place + 0.22 * (number - (len(found) - 1) / 2)
                share, ends = robust(one)
                colour, marker = (_ROBUST, "o") if one.verdict.reliable else (_DOUBTED, "X")
                axes.plot(ends, [height] * 2, color=colour, linewidth=1.6)
                axes.plot([share], [height], color=colour, marker=marker, markersize=4.5, clip_on=False)
                axes.plot([one.clean_accuracy], [height], color=_CLEAN, marker="o", markersize=4.5, fillstyle="none",
                          clip_on=False)  # fmt: skip
        axes.set_yticks(range(len(names)), [short(name, 34) for name in names])
        axes.set_ylim(len(names) - 0.5, -0.5)
        axes.set_xlim(0, 1)
        axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        axes.grid(visible=False, axis="y")
        axes.tick_params(left=False)
        handles = [
            Line2D([], [], color=colour, marker=marker, fillstyle=style, linestyle="none", label=label)
            for colour, marker, style, label in _legend(record, asked[0])
        ]
        figure.legend(handles=handles, loc="outside upper center", ncols=3, labelcolor=INK)
        return settled(figure)


def _legend(record: StudyRecord, question: str) -> list[tuple[str, str, FillStyleType, str]]:
    found = [one for run in record.runs for one in run.results if one.question == question]
    doubted = any(not one.verdict.reliable for one in found)
    marks: list[tuple[str, str, FillStyleType, str]] = [
        (_ROBUST, "o", "full", f"accuracy left by {short(question, 24)}"),
        (_CLEAN, "o", "none", "clean accuracy"),
    ]
    return [*marks, (_DOUBTED, "X", "full", "unreliable")] if doubted else marks


__all__ = ["study_figure"]
