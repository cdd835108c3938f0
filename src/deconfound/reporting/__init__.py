"""Showing records: terminal tables, figures and one self-contained page. Nothing here needs a tensor library."""

from __future__ import annotations

from typing import TYPE_CHECKING

from deconfound.lazy import exporter

if TYPE_CHECKING:
    from deconfound.reporting.analyses import analysis_files, analysis_table
    from deconfound.reporting.column_figure import columns_figure
    from deconfound.reporting.comparison import comparison_view
    from deconfound.reporting.figures import curve_figure, png, survivors_figure, svg, training_figure
    from deconfound.reporting.page import render
    from deconfound.reporting.reliance import side_by_side_table
    from deconfound.reporting.tables import evaluation_table, leaderboard_table
    from deconfound.reporting.text import interval, percent

_HOME = {
    "analysis_files": "analyses",
    "analysis_table": "analyses",
    "columns_figure": "column_figure",
    "comparison_view": "comparison",
    "curve_figure": "figures",
    "evaluation_table": "tables",
    "interval": "text",
    "leaderboard_table": "tables",
    "percent": "text",
    "png": "figures",
    "render": "page",
    "side_by_side_table": "reliance",
    "survivors_figure": "figures",
    "svg": "figures",
    "training_figure": "figures",
}

__all__ = [
    "analysis_files",
    "analysis_table",
    "columns_figure",
    "comparison_view",
    "curve_figure",
    "evaluation_table",
    "interval",
    "leaderboard_table",
    "percent",
    "png",
    "render",
    "side_by_side_table",
    "survivors_figure",
    "svg",
    "training_figure",
]


__getattr__ = exporter(__name__, _HOME)
