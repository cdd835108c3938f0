"""Figures from records, as matplotlib ``Figure`` objects without global state; ``svg`` and ``png`` turn them to bytes.

Colours are Okabe and Ito's, which the colour-blind can tell apart (Okabe and Ito 2008, "Color Universal Design"), each
with a marker of its own. The background is transparent and the ink a mid grey that reads on white and on black.
"""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, PercentFormatter

from deconfound.errors import require
from deconfound.records import EvaluationRecord, TrainingRecord
from deconfound.reporting.inline_svg import INK, MUTED, SERIES, tidy
from deconfound.reporting.strength import on_sample
from deconfound.reporting.text import labels, short, shortened

MARKERS = "osD^vPX*"

# Letters of a legend entry that leave room for a second column.
_HALF_LINE = 26

# Everything that changes a figure is set here, so that no user's matplotlibrc can. With 10 pt letters a figure of
# 5.2 inches stays legible on a phone.
_STYLE: dict[Any, Any] = {
    "font.family": ["DejaVu Sans"],
    "font.size": 10.0,
    "svg.fonttype": "none",
    "svg.hashsalt": "deconfound",
    "text.parse_math": False,
    "text.color": INK,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": MUTED,
    "grid.alpha": 0.25,
    "grid.linewidth": 0.6,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "lines.linewidth": 1.8,
    "lines.markersize": 5.0,
    "legend.frameon": False,
    "legend.fontsize": 9.5,
}


def curve_figure(records: Sequence[EvaluationRecord], names: Sequence[str] | None = None) -> Figure:
    """Accuracy against eps: one line per record and attack of its curve, with the band of its intervals.

    A large marker with a bar shows the suite's robust accuracy at its own radius; it is hollow, and its line dashed,
    where the verdict is unreliable.

    Args:
        records: evaluations in one norm, at least one with a curve.
        names: one name per record for the legend; made from the records by default.

    Raises:
        InputError: no curve to draw, several norms.
    """
    norms = sorted({record.threat.norm for record in records})
    require(len(norms) == 1, "records", norms, "evaluations in one norm, so that the radii share an axis")
    require(any(record.curve for record in records), "records", len(records), "at least one evaluation with a curve")
    shown = shortened(names if names is not None else labels(records), 44)
    require(len(shown) == len(records), "names", len(shown), f"one name per record, {len(records)}")
    written = [name if r.verdict.reliable else f"{name} UNRELIABLE" for name, r in zip(shown, records, strict=True)]
    columns = 2 if max(map(len, written)) <= _HALF_LINE else 1
    with house_style():
        figure = Figure(figsize=(5.2, 3.1 + 0.2 * math.ceil(len(records) / columns)), layout="constrained")
        axes = figure.add_subplot()
        for place, record in enumerate(records):
            _draw_curve(axes, record, *_look(place))
        _accuracy_axis(axes)
        axes.set_xlim(left=0)
        axes.set_xlabel(f"radius eps ({_norm_name(norms[0])})")
        handles = [_handle(record, *_look(place)) for place, record in enumerate(records)]
        _legend(figure, handles, written, columns)
        return settled(figure)


def survivors_figure(record: EvaluationRecord) -> Figure:
    """What is left after each stage of the suite: correct on clean images, then after each attack, out of n.

    The bar of an attack that saw a sample of the survivors only is pale; how many it saw stands in place of a share.
    Of a random judge every bar counts examples that its majority has right.

    Args:
        record: one evaluation; without attacks only the first bar is drawn.
    """
    first = sum(one.broken_by != "clean" for one in record.outcomes) if record.outcomes else None
    if first is None:  # a record without its examples
        first = round(_or_zero(record.clean_accuracy) * record.n)
    stages = [("clean images", first), *((attack.name, attack.survivors) for attack in record.attacks)]
    total = max(record.n, 1)
    with house_style():
        figure = Figure(figsize=(5.2, 0.55 + 0.36 * len(stages)), layout="constrained")
        axes = figure.add_subplot()
        places = range(len(stages))
        shares = [left / total for _, left in stages]
        sampled = [False, *(on_sample(record, attack) for attack in record.attacks)]
        colours = [MUTED, *[SERIES[0]] * len(record.attacks)]
        axes.barh(places, [1.0] * len(stages), height=0.62, color=MUTED, alpha=0.15)
        for place, bar in enumerate(axes.barh(places, shares, height=0.62, color=colours)):
            bar.set_alpha(0.35 if sampled[place] else None)
            left = f"{stages[place][1]} of {record.n} ({100 * shares[place]:.1f} %)"
            tried = f"tried on {record.attacks[place - 1].attacked} only" if sampled[place] else left
            axes.text(1.02, place, tried, va="center")
        axes.set_yticks(places, [short(name, 22) for name, _ in stages])
        axes.set_ylim(len(stages) - 0.5, -0.5)
        axes.set_xlim(0, 1.55)
        axes.set_xticks([])
        axes.grid(False)
        axes.tick_params(left=False)
        for spine in axes.spines.values():
            spine.set_visible(False)
        return settled(figure)


def training_figure(training: TrainingRecord) -> Figure:
    """Loss and accuracies against the epoch, side by side; a dotted line marks the epoch that was kept.

    Raises:
        InputError: the history holds nothing to draw.
    """
    losses, accuracies = history_keys(training)
    panels = [(keys, share) for keys, share in ((losses, False), (accuracies, True)) if keys]
    require(bool(panels), "training", training.recipe_digest, "a history with losses or accuracies")
    with house_style():
        figure = Figure(figsize=(5.2, 2.4 * len(panels)), layout="constrained")
        for place, (keys, share) in enumerate(panels):
            axes = figure.add_subplot(len(panels), 1, place + 1)
            _draw_history(axes, training, keys)
            if share:
                _accuracy_axis(axes)
            else:
                axes.set_ylabel("loss")
        axes.set_xlabel("epoch")
        return settled(figure)


def history_keys(training: TrainingRecord) -> tuple[list[str], list[str]]:
    """The losses and the accuracies in a history, in order of appearance; a key without a finite value is left out."""
    finite = {key: None for row in training.history for key, value in row.items() if math.isfinite(value)}
    losses = [key for key in finite if "loss" in key]
    known = ("accuracy", "validation", "clean", "robust")
    return losses, [key for key in finite if key not in losses and any(word in key for word in known)]


def svg(figure: Figure, prefix: str = "figure", title: str = "", description: str = "") -> str:
    """A figure as SVG text without date, random names or metadata; the same figure gives the same text.

    Args:
        figure: made by this module.
        prefix: begins every id, so that several figures can stand in one page.
        title: short name of the figure, read to those who cannot see it.
        description: what it shows, in words.
    """
    buffer = io.StringIO()
    with house_style():
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    return tidy(buffer.getvalue(), prefix, title, description)


def png(figure: Figure, dpi: int = 150) -> bytes:
    """A figure as PNG bytes, 8-bit RGBA on a transparent background."""
    buffer = io.BytesIO()
    with house_style():
        figure.savefig(buffer, format="png", dpi=dpi, transparent=True, metadata={"Software": None})
    return buffer.getvalue()


@contextmanager
def house_style() -> Iterator[None]:
    """Everything that is drawn inside looks like every other figure, whatever the user's own settings are."""
    # A name in a script that the measuring font lacks is still drawn by the reader's browser: no cause for a warning.
    with matplotlib.rc_context(), warnings.catch_warnings():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_STYLE)
        warnings.filterwarnings("ignore", message="Glyph .* missing from", category=UserWarning)
        yield


def settled(figure: Figure) -> Figure:
    """The figure, laid out for good."""
    # Laid out once: the layout engine moves things a little at every drawing, and the text would differ each time.
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    return figure


def _look(place: int) -> tuple[str, str]:
    return SERIES[place % len(SERIES)], MARKERS[place % len(MARKERS)]


def _draw_curve(axes: Axes, record: EvaluationRecord, colour: str, marker: str) -> None:
    for attack in dict.fromkeys(point.attack for point in record.curve):
        points = sorted((p for p in record.curve if p.attack == attack), key=lambda p: p.eps)
        eps = [p.eps for p in points]
        axes.fill_between(
            eps, [p.interval[0] for p in points], [p.interval[1] for p in points], color=colour, alpha=0.14, linewidth=0
        )
        axes.plot(
            eps, [p.accuracy for p in points], color=colour, linestyle=_dashes(record), marker=marker, markersize=4
        )
    low, high = record.robust_interval
    axes.plot([record.threat.eps] * 2, [low, high], color=colour, linewidth=2.2, solid_capstyle="butt")
    face = colour if record.verdict.reliable else "none"
    # Not clipped: a marker at 0 % is the one that matters most.
    axes.plot(
        [record.threat.eps], [record.robust_accuracy],
        color=colour, marker=marker, markersize=8, markerfacecolor=face, clip_on=False, zorder=3,
    )  # fmt: skip


def _draw_history(axes: Axes, training: TrainingRecord, keys: Sequence[str]) -> None:
    for place, key in enumerate(keys):
        colour, marker = _look(place)
        rows = [(row.get("epoch", float(i)), row.get(key, math.nan)) for i, row in enumerate(training.history)]
        finite = [(epoch, value if math.isfinite(value) else math.nan) for epoch, value in rows]
        every = max(1, len(finite) // 8)
        axes.plot(*zip(*finite, strict=True), color=colour, marker=marker, markevery=every)
    if training.selected_epoch is not None:
        axes.axvline(training.selected_epoch, color=MUTED, linestyle=":", linewidth=1.4)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    handles = [Line2D([], [], color=_look(i)[0], marker=_look(i)[1]) for i in range(len(keys))]
    legend = axes.legend(handles, [str(i) for i in range(len(keys))], loc="best")
    for text, key in zip(legend.get_texts(), keys, strict=True):
        text.set_text(short(key.replace("_", " "), 30))


def _handle(record: EvaluationRecord, colour: str, marker: str) -> Line2D:
    reliable = record.verdict.reliable
    face = colour if reliable else "none"
    return Line2D([], [], color=colour, marker=marker, linestyle=_dashes(record), markerfacecolor=face)


def _dashes(record: EvaluationRecord) -> Any:
    return "-" if record.verdict.reliable else (0, (4, 2))


def _legend(figure: Figure, handles: list[Line2D], names: Sequence[str], columns: int) -> None:
    # The texts are set afterwards: a label that starts with an underscore would be dropped.
    places = [str(i) for i in range(len(names))]
    legend = figure.legend(handles, places, loc="outside lower left", ncols=columns, handlelength=2.6)
    for text, name in zip(legend.get_texts(), names, strict=True):
        text.set_text(name)


def _accuracy_axis(axes: Axes) -> None:
    axes.set_ylim(0, 1)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.set_ylabel("accuracy")


def _norm_name(norm: str) -> str:
    return {"linf": "L∞", "l2": "L2", "l1": "L1"}.get(norm, short(norm, 12))


def _or_zero(share: float) -> float:
    return share if math.isfinite(share) else 0.0


__all__ = [
    "MARKERS",
    "curve_figure",
    "history_keys",
    "house_style",
    "png",
    "settled",
    "survivors_figure",
    "svg",
    "training_figure",
]
