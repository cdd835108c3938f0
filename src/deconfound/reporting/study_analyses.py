"""What analyses found in the runs of a study, as tables of words and as one table of numbers."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from statistics import fmean, stdev

from deconfound.records import StudyAnalysis, StudyFigure, StudyRecord, StudyRun
from deconfound.reporting.grid import Grid
from deconfound.reporting.strength import deviation_text
from deconfound.reporting.text import clean, interval, listing, percent, value_text

Row = tuple[str, ...]

CAPTIONS: Mapping[str, str] = {
    "reliance": "Causal reliance: accuracy as observed and under interventions, by rho of the test images",
    "effects": "Causal effects: accuracy of the four kinds of features; KL to AC times 1000",
    "style": "Content and style: accuracy on natural images and on adversarial ones, and what leaks",
    "instruments": "Instrument diagnostics",
    "exposure": "Instrument exposure",
    "checkpoints": "Disentanglement against robustness over kept epochs",
    "pictures": "Feature pictures: how near they come to their features",
}
COLUMNS: Mapping[str, tuple[str, ...]] = {
    "reliance": (
        "observed",
        "do(confounder = random)",
        "gap under do(confounder = random)",
        "do(confounder = other)",
        "reliance",
        "abstained",
        "unsteady",
    ),
    "checkpoints": ("rank correlation with robust accuracy", "p"),
    "instruments": ("joint F", "p wooldridge", "p sargan", "p hansen", "R2 of components", "R2 of features"),
}
"""What the tables of words show of a kind that finds more than fits on a page; the table of numbers has it all."""
ABREAST = 6
"""Figures that stand side by side."""
HEADINGS = (
    "study", "method", "recipe", "seed", "data", "control", "analysis", "kind", "n", "analysis_seed", "at", "figure",
    "value", "low", "high", "recipe_digest", "model_digest", "data_digest",
)  # fmt: skip


def analysis_grids(record: StudyRecord) -> list[Grid]:
    """The tables of each analysis that any run has: a row for each run and each part of it, such as each rho.

    Args:
        record: of the study.
    """
    names = dict.fromkeys(one.analysis for run in record.runs for one in run.analyses)
    return [grid for name in names for grid in _grids(record, name)]


def _grids(record: StudyRecord, name: str) -> list[Grid]:
    """As many tables as its figures need, so that each fits on a screen."""
    members = [(run, one) for run in record.runs for one in run.analyses if one.analysis == name]
    kind = members[0][1].about
    figures = [figure for _, one in members for figure in _shown(one)]
    columns = list(dict.fromkeys(figure.name for figure in figures))
    order = COLUMNS.get(kind, ())
    columns.sort(key=lambda column: order.index(column) if column in order else -1)
    parts = any(figure.at for figure in figures)
    runs = dict.fromkeys(run.name for run, _ in members)
    methods = [[(run, one) for run, one in members if run.name == method] for method in runs]
    facts = [f"n {_all_of([str(one.n) for _, one in members])}", f"seed {_all_of([str(o.seed) for _, o in members])}"]
    caption = f"{CAPTIONS.get(kind, clean(kind))}; {', '.join(facts)}, 95 % intervals"
    notes = dict.fromkeys(clean(note) for _, one in members for note in one.notes)
    tables = [columns[first : first + ABREAST] for first in range(0, len(columns), ABREAST)] or [[]]
    return [
        Grid(
            caption if place == 0 else f"{caption}, continued",
            ("method", "seed", *(["at"] if parts else []), *map(clean, some)),
            tuple(row for method in methods for row in _method(method, some, parts)),
            (*notes,) if place + 1 == len(tables) else (),
        )
        for place, some in enumerate(tables)
    ]


def _shown(one: StudyAnalysis) -> list[StudyFigure]:
    wanted = COLUMNS.get(one.about)
    return [figure for figure in one.figures if wanted is None or figure.name in wanted]


def _all_of(values: Sequence[str]) -> str:
    return listing(list(dict.fromkeys(values)))


def _method(members: Sequence[tuple[StudyRun, StudyAnalysis]], columns: Sequence[str], parts: bool) -> list[Row]:
    """A method's runs, and below them their mean where there are several."""
    rows = [row for run, one in members for row in _rows(run, one, columns, parts)]
    return rows + (_means(members, columns, parts) if len(members) > 1 else [])


def _means(members: Sequence[tuple[StudyRun, StudyAnalysis]], columns: Sequence[str], parts: bool) -> list[Row]:
    """Mean and standard deviation over seeds, of figures that every seed has; p values have no mean."""
    found = [{(figure.at, figure.name): figure for figure in _shown(one)} for _, one in members]
    rows = []
    for at in dict.fromkeys(at for at, _ in found[0]):
        seeds = [[one.get((at, name)) for one in found] for name in columns]
        cells = [_mean(figures) if name.split()[0] != "p" else "" for name, figures in zip(columns, seeds, strict=True)]
        if any(cells):
            rows.append((clean(members[0][0].name), "mean", *([clean(at)] if parts else []), *cells))
    return rows


def _mean(figures: Sequence[StudyFigure | None]) -> str:
    """Of one figure of every seed; none where a seed lacks it."""
    values = [figure.value for figure in figures if figure is not None and math.isfinite(figure.value)]
    if len(values) < len(figures):
        return ""
    middle, spread = fmean(values), stdev(values)
    if figures[0] is not None and figures[0].share:
        return f"{percent(middle)} {deviation_text(spread)}"
    return f"{value_text(middle)} ± {value_text(spread)}"


def _rows(run: StudyRun, one: StudyAnalysis, columns: Sequence[str], parts: bool) -> list[Row]:
    figures = _shown(one)
    rows = []
    for at in dict.fromkeys(figure.at for figure in figures):
        found = {figure.name: figure for figure in figures if figure.at == at}
        place = [clean(at)] if parts else []
        rows.append((clean(run.name), str(run.seed), *place, *(_cell(found.get(name)) for name in columns)))
    return rows


def _cell(figure: StudyFigure | None) -> str:
    if figure is None:
        return ""
    low, high = figure.interval or (None, None)
    if figure.share:
        return percent(figure.value) + (f" {interval(low, high)}" if figure.interval else "")
    return value_text(figure.value) + (f" [{value_text(low)}, {value_text(high)}]" if figure.interval else "")


def analyses_csv(record: StudyRecord) -> str:
    """Comma-separated values with one line of headings: a row for each figure of each run, in full precision."""
    text = io.StringIO()
    writer = csv.DictWriter(text, HEADINGS, restval="", lineterminator="\n")
    writer.writeheader()
    for run in record.runs:
        for one in run.analyses:
            writer.writerows(_line(record, run, one, figure) for figure in one.figures)
    return text.getvalue()


def _line(record: StudyRecord, run: StudyRun, one: StudyAnalysis, figure: StudyFigure) -> dict[str, object]:
    ends = dict(zip(("low", "high"), figure.interval, strict=True)) if figure.interval else {}
    return ends | {
        "study": record.study,
        "method": run.name,
        "recipe": run.recipe,
        "seed": run.seed,
        "data": run.data,
        "control": run.control or "",
        "analysis": one.analysis,
        "kind": one.about,
        "n": one.n,
        "analysis_seed": one.seed,
        "at": figure.at,
        "figure": figure.name,
        "value": figure.value,
        "recipe_digest": run.recipe_digest,
        "model_digest": one.digests["model"],
        "data_digest": one.digests["data"],
    }


__all__ = ["analyses_csv", "analysis_grids"]
