"""How each kind of analysis is shown: on the screen, as files beside its record, and as a part of the page."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import RenderableType

from deconfound.records import (
    AnalysisRecord,
    CheckpointsRecord,
    EffectsRecord,
    ExposureRecord,
    InstrumentsRecord,
    PicturesRecord,
    RelianceRecord,
    StyleRecord,
)
from deconfound.reporting.checkpoints import checkpoints_files, checkpoints_table, checkpoints_view
from deconfound.reporting.effects import effects_files, effects_table, effects_view
from deconfound.reporting.exposure import exposure_files, exposure_table, exposure_together, exposure_view
from deconfound.reporting.figures import png, svg
from deconfound.reporting.instruments import instruments_files, instruments_table, instruments_view
from deconfound.reporting.pictures import pictures_files, pictures_table, pictures_view
from deconfound.reporting.reliance import reliance_files, reliance_table
from deconfound.reporting.reliance_view import reliance_together, reliance_view
from deconfound.reporting.style_figure import neighbours_figure, readers_figure
from deconfound.reporting.style_rows import style_csv
from deconfound.reporting.style_table import style_table
from deconfound.reporting.style_view import style_view
from deconfound.reporting.text import analysis_labels, clean, count, machine_text


@dataclass(frozen=True)
class Showing:
    """One kind of analysis.

    Attributes:
        title: of its part of the page.
        template: of that part.
        view: (prefix of ids, name, record, letters of base64 for pictures) -> what the template needs.
        table: for the screen.
        files: name -> content, of what lies beside the record.
        together: what the template of all records of the kind needs, (prefix, names, records) -> it; None where they
            have no table in common.
        together_template: its name.
    """

    title: str
    template: str
    view: Callable[[str, str, Any, int], dict[str, Any]]
    table: Callable[[Any], RenderableType]
    files: Callable[[Any], dict[str, bytes]]
    together: Callable[[str, Sequence[str], Sequence[Any]], dict[str, Any]] | None = None
    together_template: str = ""


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
    RelianceRecord.expected_kind: Showing(
        title="Causal reliance",
        template="reliance.html.j2",
        view=reliance_view,
        table=reliance_table,
        files=reliance_files,
        together=reliance_together,
        together_template="reliance_all.html.j2",
    ),
    InstrumentsRecord.expected_kind: Showing(
        title="Instrument diagnostics",
        template="instruments.html.j2",
        view=instruments_view,
        table=instruments_table,
        files=instruments_files,
    ),
    PicturesRecord.expected_kind: Showing(
        title="Feature pictures",
        template="pictures.html.j2",
        view=pictures_view,
        table=pictures_table,
        files=pictures_files,
    ),
    ExposureRecord.expected_kind: Showing(
        title="Instrument exposure",
        template="exposure.html.j2",
        view=exposure_view,
        table=exposure_table,
        files=exposure_files,
        together=exposure_together,
        together_template="exposure_all.html.j2",
    ),
    EffectsRecord.expected_kind: Showing(
        title="Causal effects",
        template="effects.html.j2",
        view=effects_view,
        table=effects_table,
        files=effects_files,
    ),
    CheckpointsRecord.expected_kind: Showing(
        title="Disentanglement and robustness",
        template="checkpoints.html.j2",
        view=checkpoints_view,
        table=checkpoints_table,
        files=checkpoints_files,
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
    views: list[dict[str, Any]] = []
    for kind, shown in SHOWN.items():
        members = [record for record in records if record.kind == kind]
        names = analysis_labels(members)
        if shown.together is not None and len(members) > 1:
            views.append(_together(f"analysis-{len(views) + 1}", shown, names, members))
        for name, record in zip(names, members, strict=True):
            views.append(_single(f"analysis-{len(views) + 1}", shown, name, record, budget // len(records)))
    return views


def _single(prefix: str, shown: Showing, name: str, record: AnalysisRecord, budget: int) -> dict[str, Any]:
    return {
        "id": prefix,
        "name": f"{shown.title}: {name}",
        "template": shown.template,
        "record": record,
        "machine": machine_text(record.machine),
        "notes": [clean(note) for note in record.notes],
        "shown": shown.view(prefix, name, record, budget),
    }


def _together(prefix: str, shown: Showing, names: Sequence[str], records: Sequence[AnalysisRecord]) -> dict[str, Any]:
    assert shown.together is not None
    return {
        "id": prefix,
        "name": f"{shown.title}: {count(len(records), 'analysis', 'analyses')} side by side",
        "template": shown.together_template,
        "record": None,
        "shown": shown.together(prefix, names, records),
    }


__all__ = ["SHOWN", "Showing", "analysis_files", "analysis_table", "analysis_views"]
