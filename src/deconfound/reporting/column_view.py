"""The columns of an evaluation as the page's template wants them: words and one drawing."""

from __future__ import annotations

from typing import Any

from markupsafe import Markup

from deconfound.records import EvaluationRecord
from deconfound.records.beyond import corruption
from deconfound.reporting.column_figure import columns_figure
from deconfound.reporting.columns import GROUPS, OWN, Row, column_rows, columns_title, severity, sizes
from deconfound.reporting.figures import svg
from deconfound.reporting.strength import accuracy_text
from deconfound.reporting.text import clean, interval, percent, verdict_text


def column_view(number: int, name: str, record: EvaluationRecord) -> dict[str, Any] | None:
    """Title, drawing and rows; None for a record without columns.

    Args:
        number: of the model in the page, from 1.
        name: of the model.
        record: its evaluation.
    """
    rows = column_rows(record)
    if not rows:
        return None
    title = columns_title(record)
    kinds = [row for row in rows if row.severities]
    words = "; ".join(f"{row.name} {percent(row.share)} {interval(*row.interval)}" for row in rows)
    return {
        "title": title,
        "verdict": verdict_text(record.verdict),
        "n": sizes(rows),
        "svg": Markup(svg(columns_figure(record), f"columns-{number}", f"{title}, {name}", words)),
        "together": "; ".join(
            f"{row.name}: {percent(row.share)} {interval(*row.interval)}" for row in rows if row.group == "union"
        ),
        "rows": [_row(record, row) for row in rows if not row.severities],
        "settings": [column for column in record.columns if column.settings and not corruption(column)],
        "levels": _levels(kinds),
        "kinds": [_kind(row, _levels(kinds)) for row in kinds],
    }


def _row(record: EvaluationRecord, row: Row) -> dict[str, Any]:
    seen = accuracy_text(record, robust=True, gap="\n").split("\n")[0]
    return {
        "name": row.name,
        "group": GROUPS.get(row.group, clean(row.group)),
        "bound": row.bound,
        "accuracy": seen if row.group in OWN else percent(row.share),
        "interval": interval(*row.interval),
        "n": row.n,
    }


def _levels(kinds: list[Row]) -> list[int]:
    return sorted({severity(column) for row in kinds for column in row.severities})


def _kind(row: Row, levels: list[int]) -> dict[str, Any]:
    found = {severity(column): column for column in row.severities}
    cells = [
        {"accuracy": percent(found[level].accuracy), "interval": interval(*found[level].interval)}
        if level in found
        else {"accuracy": "", "interval": ""}
        for level in levels
    ]
    return {"name": row.name, "cells": cells, "accuracy": percent(row.share), "interval": interval(*row.interval)}


__all__ = ["column_view"]
