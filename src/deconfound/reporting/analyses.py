"""How each kind of analysis is shown: on the screen, as files beside its record, and as a part of the page."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import RenderableType

from deconfound.records import AnalysisRecord, StyleRecord
from deconfound.reporting.figures import png, svg
from deconfound.reporting.style_figure import neighbours_figure, readers_figure
from deconfound.reporting.style_rows import style_csv
from deconfound.reporting.style_table import style_table
from deconfound.reporting.style_view import style_view
from deconfound.reporting.text import analysis_labels, clean, machine_text


@dataclass(frozen=True)
class Showing:
    """One kind of analysis.

    Attributes:
        title: of its part of the page.
        template: of that part.
        view: (prefix of ids, name, record, letters of base64 for pictures) -> what the template needs.
        table: for the screen.
        files: name -> content, of what lies beside the record.
    """

    title: str
    template: str
    view: Callable[[str, str, Any, int], dict[str, Any]]
    table: Callable[[Any], RenderableType]
    files: Callable[[Any], dict[str, bytes]]


def _style_files(record: StyleRecord) -> dict[str, bytes]:
    name = analysis_labels([record])[0]
    figure = svg(readers_figure(record), "style-readers", f"Content and style, {name}")
    files = {"style.csv": style_csv(record).encode(), "style-accuracy.svg": figure.encode()}
    return files | ({"style-neighbours.png": png(neighbours_figure(record))} if record.queries else {})


SHOWN: Mapping[str, Showing] = {
    StyleRecord.expected_kind: Showing(
        title="Content and style",
        template="style.html.j2",
        view=style_view,
        table=style_table,
        files=_style_files,
    ),
}


def analysis_table(record: AnalysisRecord) -> RenderableType:
    """An analysis for the screen."""
    return SHOWN[record.kind].table(record)


def analysis_files(record: AnalysisRecord) -> dict[str, bytes]:
    """What lies beside the record of an analysis: name -> content."""
    return SHOWN[record.kind].files(record)


def analysis_views(records: Sequence[AnalysisRecord], budget: int) -> list[dict[str, Any]]:
    """The analyses as the page wants them; the same records give the same views.

    Args:
        records: any number, of any kinds.
        budget: letters of base64 that all their pictures together may take.
    """
    views = []
    for number, (name, record) in enumerate(zip(analysis_labels(records), records, strict=True), 1):
        prefix, shown = f"analysis-{number}", SHOWN[record.kind]
        views.append(
            {
                "id": prefix,
                "name": f"{shown.title}: {name}",
                "template": shown.template,
                "record": record,
                "machine": machine_text(record.machine),
                "notes": [clean(note) for note in record.notes],
                "shown": shown.view(prefix, name, record, budget // len(records)),
            }
        )
    return views


__all__ = ["SHOWN", "Showing", "analysis_files", "analysis_table", "analysis_views"]
