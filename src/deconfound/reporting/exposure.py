"""Instrument exposure as CSV, terminal table, drawings and a part of the page."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from typing import Any

from markupsafe import Markup
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, PercentFormatter
from rich.console import Group
from rich.text import Text

from deconfound.records import Accuracy, ExposureRecord, Looks, Mean
from deconfound.reporting.figures import house_style, png, settled, svg
from deconfound.reporting.inline_png import panel
from deconfound.reporting.inline_svg import MUTED, SERIES
from deconfound.reporting.picture_grid import Tile, grid_figure
from deconfound.reporting.plain import plain_table
from deconfound.reporting.style_rows import plain
from deconfound.reporting.text import NOT_KNOWN, analysis_labels, class_name, clean, count, share_text

_POLICIES = {"grid": "centres of a 3 x 3 grid", "cells": "cells of the grid, drawn", "random": "drawn centres"}


def mean_text(found: Mean) -> tuple[str, str]:
    """A mean without a unit and its interval.

    >>> mean_text(Mean(value=0.1234, interval=(0.12, 0.13)))
    ('0.123', '[0.120, 0.130]')
    """
    if not math.isfinite(found.value):
        return NOT_KNOWN, ""
    low, high = (f"{end:.3f}" if math.isfinite(end) else NOT_KNOWN for end in found.interval)
    return f"{found.value:.3f}", f"[{low}, {high}]"


def setting(record: ExposureRecord) -> str:
    """What must be known to read the figures, on one line."""
    policy = _POLICIES.get(record.policy, clean(record.policy))
    return (
        f"{clean(record.data)}, {count(len(record.centres), 'look')} ({policy}), consistency weight"
        f" {record.consistency:g}, n = {record.n}, seed {record.seed}"
    )


def centres_figure(record: ExposureRecord) -> Figure:
    """Accuracy of each look alone with its 95 % interval, and a line at that of all together."""
    with house_style():
        figure = Figure(figsize=(5.2, 2.9), layout="constrained")
        axes = figure.add_subplot()
        axes.axhline(record.together.share, color=SERIES[1], linewidth=1.6)
        for place, centre in enumerate(record.centres, 1):
            axes.plot([place] * 2, centre.accuracy.interval, color=SERIES[0], linewidth=2.2)
            axes.plot([place], [centre.accuracy.share], color=SERIES[0], marker="o", markersize=6, clip_on=False)
        axes.axhline(1 / max(len(record.class_names), 1), color=MUTED, linestyle=":", linewidth=1.4)
        axes.set_ylim(0, 1)
        axes.set_xlim(0.5, len(record.centres) + 0.5)
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel("look")
        axes.set_ylabel("accuracy")
        handles = [
            Line2D([], [], color=SERIES[0], marker="o"),
            Line2D([], [], color=SERIES[1]),
            Line2D([], [], color=MUTED, linestyle=":"),
        ]
        figure.legend(handles, ["each look alone", "all together", "chance"], loc="outside lower left", ncols=3)
        return settled(figure)


def exposure_csv(record: ExposureRecord) -> str:
    """One line for each look and one for all together, full precision."""
    about = {"model": plain(record.model), "defence": plain(record.defence), "data": plain(record.data)}
    about |= {"policy": plain(record.policy), "n": str(record.n), "seed": str(record.seed)}
    whole = {"spread": record.spread.value, "raw_spread": record.raw_spread.value, "consistency": record.consistency}
    rows: list[tuple[str, Any, Accuracy]] = [("all", "", record.together)]
    rows += [(str(place), centre.exposure, centre.accuracy) for place, centre in enumerate(record.centres, 1)]
    out = io.StringIO()
    names = ["look", "exposure", "accuracy", "low", "high", *whole, *about]
    writer = csv.DictWriter(out, names, lineterminator="\n")
    writer.writeheader()
    for look, exposure, found in rows:
        cells = {"look": look, "exposure": exposure, "accuracy": found.share}
        writer.writerow(cells | dict(zip(("low", "high"), found.interval, strict=True)) | whole | about)
    return out.getvalue()


def exposure_files(record: ExposureRecord) -> dict[str, bytes]:
    """The table as CSV, the drawing, and the views."""
    name = analysis_labels([record])[0]
    figure = svg(centres_figure(record), "exposure", f"Accuracy of each look, {name}")
    files = {"exposure.csv": exposure_csv(record).encode(), "exposure.svg": figure.encode()}
    return files | ({"exposure-views.png": png(grid_figure(_tiles(record)))} if record.looks else {})


def _tiles(record: ExposureRecord) -> list[list[Tile]]:
    names = record.class_names
    return [
        [
            Tile(looks.png, "image", _class(names, looks.prediction), looks.prediction != looks.label),
            *(
                Tile(v.png, f"z {v.exposure:.2f}", _class(names, v.prediction), v.prediction != looks.label)
                for v in looks.views
            ),
        ]
        for looks in record.looks
    ]


def _class(names: tuple[str, ...], label: int) -> str:
    return "none" if label < 0 else class_name(names, label)


def exposure_table(record: ExposureRecord) -> Group:
    """Each look, then all together, then the spread of features."""
    table = plain_table(f"{analysis_labels([record])[0]}: {setting(record)}")
    for name in ("look", "exposure", "accuracy alone", ""):
        table.add_column(name, justify="left" if name == "look" else "right", no_wrap=True)
    for place, centre in enumerate(record.centres, 1):
        table.add_row(str(place), f"{centre.exposure:.3f}", *map(Text, share_text(centre.accuracy)))
    table.add_section()
    table.add_row("all together", "", *map(Text, share_text(record.together)))
    spread, raw = " ".join(mean_text(record.spread)), " ".join(mean_text(record.raw_spread))
    said = f"Relative spread of features per exposure over the looks: {spread}; of the features themselves: {raw}"
    return Group(table, Text(said), *(Text(f"Note: {clean(note)}") for note in record.notes))


def exposure_view(prefix: str, name: str, record: ExposureRecord, budget: int) -> dict[str, Any]:
    """Setting, drawing, rows, and the images whose pictures fit the budget, always the first."""
    shown: list[dict[str, Any]] = []
    spent = 0
    for looks in record.looks:
        spent += len(looks.png) + sum(len(view.png) for view in looks.views)
        if shown and spent > budget:
            break
        shown.append(_picture(looks, record.class_names))
    words = "; ".join(
        f"look {place}: {' '.join(share_text(centre.accuracy))}" for place, centre in enumerate(record.centres, 1)
    )
    return {
        "setting": setting(record),
        "spread": mean_text(record.spread),
        "raw_spread": mean_text(record.raw_spread),
        "together": share_text(record.together),
        "svg": Markup(svg(centres_figure(record), f"{prefix}-looks", f"Accuracy of each look, {name}", words)),
        "centres": [
            {"place": place, "exposure": f"{centre.exposure:.3f}", "accuracy": share_text(centre.accuracy)}
            for place, centre in enumerate(record.centres, 1)
        ],
        "pictures": shown,
        "layout": "near looks",
        "left_out": len(record.looks) - len(shown),
        "attack": "",
        "facts": [],
    }


def _picture(looks: Looks, names: tuple[str, ...]) -> dict[str, Any]:
    label = class_name(names, looks.label)
    found = _class(names, looks.prediction)
    panels = [panel("image", looks.png, found, f"Image {looks.index}, a {label}, predicted {found}")]
    for place, view in enumerate(looks.views, 1):
        alone = _class(names, view.prediction)
        alt = f"Look {place} at image {looks.index}, exposure {view.exposure:.2f}, alone predicts {alone}"
        panels.append(panel(f"z {view.exposure:.2f}", view.png, alone, alt))
    return {"index": looks.index, "label": label, "panels": panels}


def exposure_together(prefix: str, names: Sequence[str], records: Sequence[ExposureRecord]) -> dict[str, Any]:
    """Spread and accuracy of several networks."""
    rows = [
        {
            "name": name,
            "data": clean(record.data),
            "n": str(record.n),
            "consistency": f"{record.consistency:g}",
            "cells": [mean_text(record.spread), mean_text(record.raw_spread), share_text(record.together)],
        }
        for name, record in zip(names, records, strict=True)
    ]
    return {"rows": rows}


__all__ = ["centres_figure", "exposure_csv", "exposure_files", "exposure_table", "exposure_together", "exposure_view"]
