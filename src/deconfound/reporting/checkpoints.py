"""Disentanglement against robustness over kept epochs as CSV, terminal table, drawing and a part of the page."""

from __future__ import annotations

import csv
import io
import math
from typing import Any

from markupsafe import Markup
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from rich.console import Group
from rich.table import Table
from rich.text import Text

from deconfound.records import CheckpointsRecord, KeptEpoch, RankCorrelation
from deconfound.reporting.comparison import p_text
from deconfound.reporting.figures import house_style, settled, svg
from deconfound.reporting.inline_svg import MUTED, SERIES
from deconfound.reporting.plain import plain_table
from deconfound.reporting.style_rows import beside_chance, plain, small
from deconfound.reporting.text import analysis_labels, clean, count, settings_text, share_text, threat_text, value_text

HEADINGS = ("largest correlation", "mean correlation", "canonical mean square", "content recovered", "largest cosine")
_OVER_IMAGES = ("largest", "mean", "canonical_mean_square")


def setting(record: CheckpointsRecord) -> str:
    """What must be known to read the figures, on one line."""
    return (
        f"{clean(record.data)} ({count(len(record.class_names), 'class', 'classes')}), {threat_text(record.threat)},"
        f" {clean(record.attack.name)}, n = {record.n}, seed {record.seed}, {clean(record.basis)} basis,"
        f" {count(len(record.points), 'epoch')}"
    )


def correlation_text(one: RankCorrelation) -> str:
    """A rank correlation with its p-value, in words."""
    pair = f"{clean(one.measure)} and accuracy under the attack"
    if not math.isfinite(one.rho) and one.within_chance:
        return f"{pair}: no rank correlation, {count(one.within_chance, 'epoch')} within chance and none to order"
    if not math.isfinite(one.rho):
        return f"{pair}: no rank correlation, one of them is the same in all epochs or not a number"
    how = "exact" if one.exact else "Student's t"
    ties = f"; {count(one.within_chance, 'epoch')} within chance, as the lowest" if one.within_chance else ""
    return f"{pair}: Spearman {value_text(one.rho)}, p {p_text(one.p_value)} ({how}){ties}"


def measures(point: KeptEpoch) -> tuple[float | None, ...]:
    """What ``HEADINGS`` name."""
    found = point.held_out
    return found.largest, found.mean, found.canonical_mean_square, point.recovered, point.leakage


def measures_text(point: KeptEpoch) -> list[str]:
    """The measures as words, beside those over images what chance would leave."""
    beside = [beside_chance(point.held_out, point.chance, name) for name in _OVER_IMAGES]
    return [*beside, small(point.recovered), small(point.leakage)]


def checkpoints_figure(record: CheckpointsRecord) -> Figure:
    """A dot for each epoch, with its interval: mean correlation across, accuracy under the attack up."""
    with house_style():
        figure = Figure(figsize=(5.2, 3.4), layout="constrained")
        axes = figure.add_subplot()
        across = [point.held_out.mean for point in record.points]
        axes.plot(across, [p.adversarial.share for p in record.points], color=MUTED, linewidth=1.0, zorder=1)
        for x, point in zip(across, record.points, strict=True):
            axes.plot([x, x], point.adversarial.interval, color=SERIES[0], linewidth=2.0)
            axes.plot([x], [point.adversarial.share], color=SERIES[0], marker="o", markersize=6, clip_on=False)
            axes.annotate(str(point.epoch), (x, point.adversarial.share), xytext=(5, 4), textcoords="offset points")
        known = [point.chance.mean for point in record.points if point.chance is not None]
        if known:
            axes.axvline(max(known), color=MUTED, linestyle=":", linewidth=1.4)
        axes.set_ylim(0, 1)
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        axes.set_xlabel("mean correlation of style with content logits, held out")
        axes.set_ylabel("accuracy under the attack")
        return settled(figure)


def checkpoints_csv(record: CheckpointsRecord) -> str:
    """One line for each epoch, in full precision."""
    about = {"model": plain(record.model), "defence": plain(record.defence), "data": plain(record.data)}
    about |= {"norm": record.threat.norm, "eps": str(record.threat.eps), "attack": plain(record.attack.name)}
    about |= {"n": str(record.n), "seed": str(record.seed), "basis": plain(record.basis)}
    lines = [_line(point) | about for point in record.points]
    out = io.StringIO()
    writer = csv.DictWriter(out, list(lines[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return out.getvalue()


def _line(point: KeptEpoch) -> dict[str, Any]:
    cells: dict[str, Any] = {"epoch": point.epoch}
    for name, found in (("natural", point.natural), ("adversarial", point.adversarial)):
        cells |= {name: found.share, f"{name}_low": found.interval[0], f"{name}_high": found.interval[1]}
    names = [heading.replace(" ", "_") for heading in HEADINGS]
    chance = {f"chance_{name}": getattr(point.chance, name, None) for name in _OVER_IMAGES}
    return cells | dict(zip(names, measures(point), strict=True)) | chance | {"model_digest": point.digest}


def checkpoints_files(record: CheckpointsRecord) -> dict[str, bytes]:
    """The table as CSV, and the drawing."""
    title = f"Disentanglement and robustness, {analysis_labels([record])[0]}"
    figure = svg(checkpoints_figure(record), "checkpoints", title)
    return {"checkpoints.csv": checkpoints_csv(record).encode(), "checkpoints.svg": figure.encode()}


def checkpoints_table(record: CheckpointsRecord) -> Group:
    """Accuracies and what style keeps of content, one row for each epoch, then the rank correlations."""
    accuracies = _rows(f"{analysis_labels([record])[0]}: {setting(record)}", "natural", "adversarial")
    kept = _rows("What style keeps of content, in brackets what chance would leave", *HEADINGS)
    for point in record.points:
        shares = ("\n".join(share_text(found)) for found in (point.natural, point.adversarial))
        accuracies.add_row(str(point.epoch), *map(Text, shares))
        kept.add_row(str(point.epoch), *measures_text(point))
    notes = (f"Note: {clean(note)}" for note in record.notes)
    return Group(accuracies, kept, *(Text(line) for line in (*map(correlation_text, record.correlations), *notes)))


def _rows(title: str, *names: str) -> Table:
    """An empty table whose rows are epochs."""
    table = plain_table(title)
    for name in ("epoch", *names):
        table.add_column(name, justify="right")
    return table


def checkpoints_view(prefix: str, name: str, record: CheckpointsRecord, budget: int) -> dict[str, Any]:
    """Setting, drawing and rows; there are no pictures that could fill the budget."""
    rows = [
        {
            "epoch": str(point.epoch),
            "shares": [share_text(point.natural), share_text(point.adversarial)],
            "measures": measures_text(point),
        }
        for point in record.points
    ]
    words = "; ".join(
        f"epoch {point.epoch}: {' '.join(share_text(point.adversarial))} at {value_text(point.held_out.mean)}"
        for point in record.points
    )
    title = f"Disentanglement and robustness, {name}"
    return {
        "setting": setting(record),
        "svg": Markup(svg(checkpoints_figure(record), f"{prefix}-epochs", title, words)),
        "headings": [heading.capitalize() for heading in HEADINGS],
        "rows": rows,
        "correlations": [correlation_text(one) for one in record.correlations],
        "attack": settings_text(record.attack.settings),
        "facts": [],
    }


__all__ = ["checkpoints_csv", "checkpoints_figure", "checkpoints_files", "checkpoints_table", "checkpoints_view"]
