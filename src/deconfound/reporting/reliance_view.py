"""Causal reliance as the page's templates want it: one analysis, or several side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from deconfound.records import Intervention, ReliancePoint, RelianceRecord
from deconfound.reporting.figures import svg
from deconfound.reporting.reliance import (
    OBSERVED,
    abstained_text,
    done_name,
    gap_text,
    judge_text,
    point_at,
    rho_text,
    rhos_of,
    setting,
    unsteady_text,
)
from deconfound.reporting.reliance_figure import reliance_figure
from deconfound.reporting.text import clean, percent, share_text


def reliance_view(prefix: str, name: str, record: RelianceRecord, budget: int) -> dict[str, Any]:
    """Setting, drawing and rows; there are no pictures, so the budget is not touched."""
    points = [_point(point) for point in record.points]
    words = "; ".join(
        f"rho {point['rho']}: " + ", ".join(f"{row['name']} {' '.join(row['accuracy'])}" for row in point["rows"])
        for point in points
    )
    share, ends = share_text(record.own.reliance)
    return {
        "setting": setting(record),
        "reliance": share,
        "ends": ends,
        "rho": rho_text(record.own.rho),
        "svg": Markup(svg(reliance_figure(record), f"{prefix}-reliance", f"Causal reliance, {name}", words)),
        "own": [_point(record.own)],
        "others": [_point(point) for point in record.points if point is not record.own],
        "unsteady": unsteady_text(record),
        "abstained": [text for text in map(abstained_text, record.points) if text],
        "attack": "",
        "facts": [("Asked for", judge_text(record)), *([("Confounder", clean(record.mark))] if record.mark else [])],
    }


def _point(point: ReliancePoint) -> dict[str, Any]:
    observed = {"name": OBSERVED, "accuracy": share_text(point.observed), "gap": ("", ""), "changed": ("", "")}
    return {"rho": rho_text(point.rho), "rows": [observed, *map(_row, point.interventions)]}


def _row(done: Intervention) -> dict[str, Any]:
    return {
        "name": done_name(done),
        "accuracy": share_text(done.accuracy),
        "gap": gap_text(done),
        "changed": share_text(done.changed),
    }


def reliance_together(prefix: str, names: Sequence[str], records: Sequence[RelianceRecord]) -> dict[str, Any]:
    """Model by rho."""
    rhos = rhos_of(records)
    rows = [
        {
            "name": name,
            "data": clean(record.data),
            "n": str(record.n),
            "cells": [_cell(point_at(record, rho)) for rho in rhos],
        }
        for name, record in zip(names, records, strict=True)
    ]
    return {"rhos": [rho_text(rho) for rho in rhos], "rows": rows}


def _cell(point: ReliancePoint | None) -> dict[str, Any] | None:
    if point is None:
        return None
    share, ends = share_text(point.reliance)
    random = point.find("confounder", "random")
    after = "" if random is None else percent(random.accuracy.share)
    return {"share": share, "ends": ends, "own": point.own, "before": percent(point.observed.share), "after": after}


__all__ = ["reliance_together", "reliance_view"]
