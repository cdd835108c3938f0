"""A content/style analysis as the page's template wants it: words, one drawing, pictures."""

from __future__ import annotations

from typing import Any

from markupsafe import Markup

from deconfound.records import Neighbour, StyleQuery, StyleRecord
from deconfound.reporting.figures import svg
from deconfound.reporting.inline_png import panel
from deconfound.reporting.style_figure import readers_figure
from deconfound.reporting.style_rows import basis_cells, basis_name, reader_rows, setting
from deconfound.reporting.text import class_name, count, percent, settings_text, value_text


def style_view(prefix: str, name: str, record: StyleRecord, budget: int) -> dict[str, Any]:
    """Setting, drawing, rows and pictures.

    Args:
        prefix: begins every id in the page.
        name: of the analysis.
        record: what it found.
        budget: letters of base64 that its pictures may take.
    """
    rows = reader_rows(record)
    cells = [basis_cells(basis) for basis in record.bases]
    words = "; ".join(
        f"{row.name}: natural {' '.join(row.accuracies[0])}, adversarial {' '.join(row.accuracies[1])}" for row in rows
    )
    pictures, left_out = _pictures(record, budget)
    return {
        "setting": setting(record),
        "chance": percent(1 / max(len(record.class_names), 1)),
        "svg": Markup(svg(readers_figure(record), f"{prefix}-readers", f"Content and style, {name}", words)),
        "readers": [{"name": row.name, "accuracies": row.accuracies, "numbers": row.numbers} for row in rows],
        "bases": [basis_name(basis) for basis in record.bases],
        "kept": [{"name": name, "cells": [one[name] for one in cells]} for name in cells[0]],
        "dimension": count(record.dimension, "feature"),
        "trained": basis_name(record.trained).removesuffix(" (trained)"),
        "pictures": pictures,
        "left_out": left_out,
        "attack": settings_text(record.attack.settings),
        "facts": [],
    }


def _pictures(record: StyleRecord, budget: int) -> tuple[list[dict[str, Any]], int]:
    """The queries whose pictures fit the budget, always the first, and how many were left out."""
    shown: list[dict[str, Any]] = []
    spent = 0
    for query in record.queries:
        spent += len(query.png) + sum(len(near.png) for near in query.neighbours)
        if shown and spent > budget:
            break
        shown.append(_query(query, record.class_names))
    return shown, len(record.queries) - len(shown)


def _query(query: StyleQuery, names: tuple[str, ...]) -> dict[str, Any]:
    label = class_name(names, query.label)
    first = panel("query", query.png, label, f"Image {query.index}, a {label}")
    return {
        "index": query.index,
        "label": label,
        "panels": [first, *(_near(query, near, place, names) for place, near in enumerate(query.neighbours, 1))],
    }


def _near(query: StyleQuery, near: Neighbour, place: int, names: tuple[str, ...]) -> dict[str, Any]:
    label, away = class_name(names, near.label), value_text(near.distance)
    alt = f"Neighbour {place} of image {query.index} in style: image {near.index}, a {label}, at distance {away}"
    return panel(away, near.png, label, alt)


__all__ = ["style_view"]
