"""Causal effects as CSV, terminal table, drawing and a part of the page."""

from __future__ import annotations

import csv
import io
from typing import Any

from markupsafe import Markup
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter
from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from deconfound.records import EffectsRecord, FeatureKind, InversionDistance, Mean
from deconfound.records.effects import PENALTIES, SHORT
from deconfound.reporting.exposure import mean_text
from deconfound.reporting.figures import house_style, settled, svg
from deconfound.reporting.inline_svg import SERIES
from deconfound.reporting.style_rows import nats, plain
from deconfound.reporting.text import analysis_labels, clean, count, listing, settings_text, share_text, threat_text

NAMES = {
    "adversarial": "adversarial, F + Z",
    "counterfactual": "counterfactual, F + g(Z)",
    "counterfactual_causal": "counterfactual causal, F + h(g(Z))",
    "adversarial_causal": "adversarial causal, F + h(Z)",
}
_MARKERS = ("o", "s", "D", "^")
_VERSIONS = ("inversion", "clean", "adversarial")


def kind_name(kind: FeatureKind) -> str:
    """In words, with its formula."""
    return NAMES.get(kind.name, clean(kind.name))


def setting(record: EffectsRecord) -> str:
    """What must be known to read the figures, on one line."""
    return (
        f"{clean(record.data)} ({count(len(record.class_names), 'class', 'classes')}), {threat_text(record.threat)},"
        f" {listing([clean(one.attack.name) for one in record.attacks])}, n = {record.n}, seed {record.seed}"
    )


def moments(record: EffectsRecord) -> str:
    """The game's own figures, on one line."""
    away = " ".join(mean_text(record.distance))
    bound = PENALTIES.get(record.penalty_name, clean(record.penalty_name)).replace("^2", "²")
    return (
        f"J ({clean(record.moment_name)}) = {nats(record.moment)}; |g(Z) - Z| = {away};"
        f" mean {bound}, which lambda weighs, = {record.bound:.3g}"
    )


def around_figure(record: EffectsRecord) -> Figure:
    """Mean probability of the classes around the true one, a line for each kind of features."""
    with house_style():
        figure = Figure(figsize=(5.2, 3.2), layout="constrained")
        axes = figure.add_subplot()
        for place, kind in enumerate(record.kinds):
            colour, marker = SERIES[place % len(SERIES)], _MARKERS[place % len(_MARKERS)]
            axes.plot(record.offsets, kind.around, color=colour, marker=marker, markersize=5, label=kind_name(kind))
        axes.set_ylim(0, 1)
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel("class, counted from the true one")
        axes.set_ylabel("mean probability")
        figure.legend(loc="outside lower left", ncols=2, columnspacing=1.4)
        return settled(figure)


def effects_csv(record: EffectsRecord) -> str:
    """One line for each attack and kind of features, then one for each network's distances, full precision.

    A cell is empty where the figure does not exist for the line.
    """
    about = {"model": plain(record.model), "defence": plain(record.defence), "data": plain(record.data)}
    about |= {"norm": record.threat.norm, "eps": str(record.threat.eps), "attack": plain(record.attack.name)}
    about |= {"n": str(record.n), "seed": str(record.seed)}
    lines: list[dict[str, Any]] = []
    for name, kind in ((one.attack.name, kind) for one in record.attacks for kind in one.kinds):
        cells: dict[str, Any] = {"what": plain(kind.name), "accuracy": kind.accuracy.share}
        cells |= dict(zip(("low", "high"), kind.accuracy.interval, strict=True)) | {"cross_entropy": kind.cross_entropy}
        cells |= {f"p{k:+d}": p for k, p in zip(record.offsets, kind.around, strict=True)}
        lines.append(cells | {"attack": plain(name)})
    for one in record.distances:
        values = {f"kl1000_{version}": getattr(one, version).value for version in _VERSIONS}
        lines.append({"what": plain(f"{one.network} network")} | values)
    out = io.StringIO()
    names = list(dict.fromkeys(name for line in lines for name in line if name not in about))
    writer = csv.DictWriter(out, [*names, *about], lineterminator="\n", restval="")
    writer.writeheader()
    writer.writerows(about | line for line in lines)
    return out.getvalue()


def effects_files(record: EffectsRecord) -> dict[str, bytes]:
    """The table as CSV, and the drawing."""
    figure = svg(
        around_figure(record), "effects", f"Probabilities around the true label, {analysis_labels([record])[0]}"
    )
    return {"effects.csv": effects_csv(record).encode(), "effects.svg": figure.encode()}


def _thousandths(found: Mean) -> tuple[str, str]:
    low, high = found.interval
    return f"{found.value:.1f}", f"[{low:.1f}, {high:.1f}]"


def _distances(one: InversionDistance) -> list[tuple[str, str]]:
    return [_thousandths(getattr(one, version)) for version in _VERSIONS]


def effects_table(record: EffectsRecord) -> Group:
    """Each kind of features, the game's own figures, then the distances of inversion."""
    title = f"{analysis_labels([record])[0]}: {setting(record)}\nUnder {clean(record.attack.name)}"
    kinds = _table(title, "features", "accuracy", "cross entropy")
    for kind in record.kinds:
        kinds.add_row(Text(kind_name(kind)), Text("\n".join(share_text(kind.accuracy))), nats(kind.cross_entropy))
    under = f"under {clean(record.attack.name)}"
    distances = _table(f"KL to the adversarial causal prediction, times 1000, {under}", "network", *_VERSIONS)
    for one in record.distances:
        distances.add_row(Text(clean(one.network)), *(Text("\n".join(found)) for found in _distances(one)))
    notes = (Text(f"Note: {clean(note)}") for note in record.notes)
    return Group(kinds, Text(moments(record)), *_by_attack(record), distances, *notes)


def _by_attack(record: EffectsRecord) -> list[Table]:
    """Accuracy of each kind of features, an attack a row; none where there is a single one."""
    if not record.others:
        return []
    table = _table("Accuracy by attack", "attack", *(SHORT.get(one.name, clean(one.name)) for one in record.kinds))
    for name, cells in attack_rows(record):
        table.add_row(Text(name), *(Text("\n".join(cell)) for cell in cells))
    return [table]


def attack_rows(record: EffectsRecord) -> list[tuple[str, list[tuple[str, str]]]]:
    """Name of each attack, and accuracy and interval of each kind of features under it."""
    return [(clean(one.attack.name), [share_text(kind.accuracy) for kind in one.kinds]) for one in record.attacks]


def _table(title: str, first: str, *others: str) -> Table:
    table = Table(title=Text(title), box=box.SIMPLE, title_justify="left", pad_edge=False, padding=(0, 1))
    table.add_column(first, overflow="fold")
    for name in others:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def effects_view(prefix: str, name: str, record: EffectsRecord, budget: int) -> dict[str, Any]:
    """Setting, drawing and rows; there are no pictures that could fill the budget."""
    rows = [
        {"name": kind_name(kind), "accuracy": share_text(kind.accuracy), "cross_entropy": nats(kind.cross_entropy)}
        for kind in record.kinds
    ]
    words = "; ".join(f"{row['name']}: {' '.join(row['accuracy'])}" for row in rows)
    return {
        "setting": setting(record),
        "moments": moments(record),
        "svg": Markup(svg(around_figure(record), f"{prefix}-around", f"Around the true label, {name}", words)),
        "kinds": rows,
        "distances": [{"name": clean(one.network), "cells": _distances(one)} for one in record.distances],
        "under": clean(record.attack.name),
        "short": [SHORT.get(kind.name, clean(kind.name)) for kind in record.kinds],
        "attacks": [{"name": name, "cells": cells} for name, cells in attack_rows(record)],
        "attack": settings_text(record.attack.settings),
        "facts": [
            *((f"Attack {clean(one.attack.name)}", settings_text(one.attack.settings)) for one in record.others),
            ("Game", settings_text(record.game)),
            ("Inversion", settings_text(record.inversion)),
        ],
    }


__all__ = ["around_figure", "effects_csv", "effects_files", "effects_table", "effects_view"]
