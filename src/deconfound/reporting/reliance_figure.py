"""Figures of causal reliance: accuracy and change of predictions, for each intervention or against rho."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import PercentFormatter

from deconfound.records import Accuracy, Interval, RelianceRecord, Share
from deconfound.reporting.figures import MARKERS, house_style, settled
from deconfound.reporting.inline_svg import INK, SERIES
from deconfound.reporting.text import clean, short

_ACCURACY, _CHANGED = (SERIES[0], "o", -0.14), (SERIES[1], "D", 0.14)


def reliance_figure(record: RelianceRecord) -> Figure:
    """Against rho where there are several, else one row for each intervention."""
    known = [point for point in record.points if point.rho is not None]
    return _against_rho(record) if len(known) > 1 else _rows(record)


def _rows(record: RelianceRecord) -> Figure:
    point = record.own
    arms: list[tuple[str, Accuracy, Share | None]] = [("as observed", point.observed, None)]
    arms += [(clean(done.name), done.accuracy, done.changed) for done in point.interventions]
    with house_style():
        figure = Figure(figsize=(5.2, 1.0 + 0.45 * len(arms)), layout="constrained")
        axes = figure.add_subplot()
        for place, (_, accuracy, changed) in enumerate(arms):
            for found, (colour, marker, offset) in ((accuracy, _ACCURACY), (changed, _CHANGED)):
                if found is not None:
                    axes.plot(found.interval, [place + offset] * 2, color=colour, linewidth=2.2)
                    # Not clipped: a dot at 0 % or 100 % is the one that matters most.
                    axes.plot([found.share], [place + offset], color=colour, marker=marker, markersize=6, clip_on=False)
        axes.set_yticks(range(len(arms)), [short(name, 34) for name, _, _ in arms])
        axes.set_ylim(len(arms) - 0.5, -0.5)
        axes.set_xlim(0, 1)
        axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        axes.grid(visible=False, axis="y")
        axes.tick_params(left=False)
        _legend(figure, [(_ACCURACY[0], "o", "-"), (_CHANGED[0], "D", "-")], ["accuracy", "predictions that change"])
        return settled(figure)


def _against_rho(record: RelianceRecord) -> Figure:
    points = [point for point in record.points if point.rho is not None]
    rhos = [point.rho or 0.0 for point in points]
    names = list(dict.fromkeys((done.variable, done.value) for point in points for done in point.interventions))
    with house_style():
        figure = Figure(figsize=(5.2, 3.4 + 0.1 * len(names)), layout="constrained")
        axes = figure.add_subplot()
        looks, words = [(SERIES[0], MARKERS[0], "-")], ["accuracy as observed"]
        _line(axes, rhos, [(p.observed.share, p.observed.interval) for p in points], *looks[0])
        for place, (variable, value) in enumerate(names, 1):
            found = [(p.rho or 0.0, p.find(variable, value)) for p in points]
            kept = [(rho, done) for rho, done in found if done is not None]
            looks.append((SERIES[place % len(SERIES)], MARKERS[place % len(MARKERS)], "-"))
            words.append(short(f"accuracy, do({variable} = {value})", 42))
            _line(axes, [r for r, _ in kept], [(d.accuracy.share, d.accuracy.interval) for _, d in kept], *looks[-1])
        relied = [(p.rho or 0.0, p.reliance) for p in points if p.reliance is not None]
        if relied:
            looks.append((INK, "*", "--"))
            words.append("reliance")
            _line(axes, [r for r, _ in relied], [(s.share, s.interval) for _, s in relied], *looks[-1])
        axes.set_ylim(0, 1)
        axes.set_xlim(0, 1.02)
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        axes.set_xlabel("rho of the test images")
        _legend(figure, looks, words)
        return settled(figure)


def _line(
    axes: Axes, x: Sequence[float], found: Sequence[tuple[float, Interval]], colour: str, marker: str, dashes: str
) -> None:
    for place, (_, ends) in zip(x, found, strict=True):
        axes.plot([place, place], ends, color=colour, linewidth=1.4, alpha=0.6)
    axes.plot(x, [share for share, _ in found], color=colour, marker=marker, linestyle=dashes, clip_on=False)


def _legend(figure: Figure, looks: Sequence[tuple[str, str, str]], words: Sequence[str]) -> None:
    # The texts are set afterwards: a label that starts with an underscore would be dropped.
    handles = [
        Line2D([], [], color=colour, marker=marker, linestyle="--" if dashes == "--" else "-")
        for colour, marker, dashes in looks
    ]
    columns = 2 if max(map(len, words)) <= 26 else 1
    legend = figure.legend(handles, [str(i) for i in range(len(words))], loc="outside lower left", ncols=columns)
    for text, word in zip(legend.get_texts(), words, strict=True):
        text.set_text(word)


__all__ = ["reliance_figure"]
