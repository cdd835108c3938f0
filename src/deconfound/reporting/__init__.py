"""Showing records: terminal tables, figures and one self-contained page. Nothing here needs a tensor library."""

from __future__ import annotations

from typing import TYPE_CHECKING

from deconfound.lazy import exporter

if TYPE_CHECKING:
    from deconfound.reporting.analyses import analysis_files, analysis_table
    from deconfound.reporting.card import card_text
    from deconfound.reporting.certification import certification_table
    from deconfound.reporting.column_figure import columns_figure
    from deconfound.reporting.comparison import comparison_view
    from deconfound.reporting.figures import curve_figure, png, survivors_figure, svg, training_figure
    from deconfound.reporting.lessons import Lessons, lessons_of
    from deconfound.reporting.page import render
    from deconfound.reporting.reliance import side_by_side_table
    from deconfound.reporting.study import markdown_table, study_grids, study_view
    from deconfound.reporting.study_analyses import analyses_csv
    from deconfound.reporting.study_csv import csv_table
    from deconfound.reporting.study_dots import study_figure
    from deconfound.reporting.study_leaderboard import leaderboard_grid
    from deconfound.reporting.tables import evaluation_table, leaderboard_table
    from deconfound.reporting.text import interval, percent

_HOME = {
    "analyses_csv": "study_analyses",
    "analysis_files": "analyses",
    "analysis_table": "analyses",
    "certification_table": "certification",
    "card_text": "card",
    "columns_figure": "column_figure",
    "comparison_view": "comparison",
    "curve_figure": "figures",
    "evaluation_table": "tables",
    "interval": "text",
    "Lessons": "lessons",
    "lessons_of": "lessons",
    "leaderboard_grid": "study_leaderboard",
    "leaderboard_table": "tables",
    "markdown_table": "study",
    "percent": "text",
    "png": "figures",
    "render": "page",
    "csv_table": "study_csv",
    "study_figure": "study_dots",
    "study_grids": "study",
    "study_view": "study",
    "side_by_side_table": "reliance",
    "survivors_figure": "figures",
    "svg": "figures",
    "training_figure": "figures",
}

__all__ = [
    "analyses_csv",
    "analysis_files",
    "analysis_table",
    "certification_table",
    "card_text",
    "columns_figure",
    "comparison_view",
    "curve_figure",
    "evaluation_table",
    "interval",
    "Lessons",
    "lessons_of",
    "leaderboard_grid",
    "leaderboard_table",
    "markdown_table",
    "percent",
    "png",
    "render",
    "csv_table",
    "study_figure",
    "study_grids",
    "study_view",
    "side_by_side_table",
    "survivors_figure",
    "svg",
    "training_figure",
]


__getattr__ = exporter(__name__, _HOME)
