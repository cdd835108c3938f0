"""Causal reliance as cells, CSV, terminal tables and files."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from deconfound.records import Intervention, ReliancePoint, RelianceRecord
from deconfound.reporting.comparison import points
from deconfound.reporting.figures import svg
from deconfound.reporting.plain import plain_table
from deconfound.reporting.reliance_figure import reliance_figure
from deconfound.reporting.style_rows import plain
from deconfound.reporting.text import NOT_KNOWN, analysis_labels, clean, count, interval, listing, share_text

OBSERVED = "as observed"


def rho_text(rho: float | None) -> str:
    """An agreement probability, short.

    >>> rho_text(1 / 3), rho_text(0.9), rho_text(None)
    ('0.333', '0.9', 'n/a')
    """
    return NOT_KNOWN if rho is None else f"{rho:.3g}"


def done_name(done: Intervention) -> str:
    """The intervention, clean."""
    return clean(done.name)


def gap_text(done: Intervention) -> tuple[str, str]:
    """Observational minus interventional accuracy in points, and its interval."""
    low, high = done.gap_interval
    return points(done.gap), f"[{points(low)}, {points(high)}]"


def setting(record: RelianceRecord) -> str:
    """What must be known to read the figures, on one line."""
    classes = count(len(record.class_names), "class", "classes")
    return f"{clean(record.data)} ({classes}), {judge_text(record)}, n = {record.n}, seed {record.seed}"


def judge_text(record: RelianceRecord) -> str:
    """How the classifier was asked."""
    draws = record.judge.get("draws")
    return "one prediction an image" if draws is None else f"majority of {clean(str(draws))} draws"


def unsteady_text(record: RelianceRecord) -> str:
    """What of a random classifier's changes is noise; nothing for a deterministic one."""
    if record.unsteady is None:
        return ""
    share, ends = share_text(record.unsteady)
    return f"{share} {ends} of predictions change on the same image when only the random numbers do"


def abstained_text(point: ReliancePoint) -> str:
    """Who predicts nothing, and what that leaves open of the changes; nothing where all are predicted."""
    arms = [("as observed", point.abstained), *((done_name(done), done.abstained) for done in point.interventions)]
    if not any(found.share for _, found in arms if found is not None):
        return ""
    shares = listing([f"{' '.join(share_text(found))} {name}" for name, found in arms])
    open_ = [
        f"{interval(*done.bounds)} {done_name(done)} (n = {done.compared})"
        for done in point.interventions
        if done.bounds is not None
    ]
    return (
        f"Without a prediction, which counts as an error, at rho {rho_text(point.rho)}: {shares}. Changes are of the"
        f" images predicted in both arms; of all images they would be in {listing(open_)}, whatever the others did"
    )


def reliance_csv(record: RelianceRecord) -> str:
    """One line for each rho and arm, full precision; a cell is empty where the figure does not exist for the line."""
    lines = [line for point in record.points for line in _lines(record, point)]
    out = io.StringIO()
    writer = csv.DictWriter(out, list(lines[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return out.getvalue()


def _lines(record: RelianceRecord, point: ReliancePoint) -> list[dict[str, Any]]:
    about = {"model": plain(record.model), "defence": plain(record.defence), "data": plain(record.data)}
    about |= {"n": str(record.n), "seed": str(record.seed)}
    rows: list[dict[str, Any]] = []
    for done in (None, *point.interventions):
        accuracy = point.observed if done is None else done.accuracy
        cells: dict[str, Any] = {"rho": "" if point.rho is None else point.rho, "own": int(point.own)}
        cells |= {"do": OBSERVED if done is None else plain(f"{done.variable}={done.value}")}
        cells |= {"accuracy": accuracy.share, "low": accuracy.interval[0], "high": accuracy.interval[1]}
        silent = (point if done is None else done).abstained
        cells["abstained"] = "" if silent is None else silent.share
        names = ["gap", "gap_low", "gap_high", "changed", "changed_low", "changed_high"]
        names += ["compared", "changed_least", "changed_most"]
        values: tuple[Any, ...] = ("",) * len(names)
        if done is not None:
            known = "" if done.compared is None else done.compared
            values = (done.gap, *done.gap_interval, done.changed.share, *done.changed.interval)
            values += (known, *(done.bounds or ("", "")))
        rows.append(cells | dict(zip(names, values, strict=True)) | about)
    return rows


def reliance_files(record: RelianceRecord) -> dict[str, bytes]:
    """The table as CSV, and the drawing."""
    name = analysis_labels([record])[0]
    figure = svg(reliance_figure(record), "reliance", f"Causal reliance, {name}")
    return {"reliance.csv": reliance_csv(record).encode(), "reliance.svg": figure.encode()}


def reliance_table(record: RelianceRecord) -> Group:
    """One table for each rho: accuracies, gaps and changes with 95 % intervals; then what to know beside them."""
    title = f"{analysis_labels([record])[0]}: {setting(record)}"
    tables = [_point_table(point, title if place == 0 else "") for place, point in enumerate(record.points)]
    silent = [f"{text}." for text in map(abstained_text, record.points) if text]
    mark = f"Confounder: {clean(record.mark)}." if record.mark else ""
    remarks = [mark, *silent, unsteady_text(record), *(f"Note: {clean(note)}" for note in record.notes)]
    return Group(*tables, *(Text(remark) for remark in remarks if remark))


def _point_table(point: ReliancePoint, title: str) -> Table:
    share, ends = share_text(point.reliance)
    own = " (of the data)" if point.own else ""
    table = plain_table(f"{title}\nrho {rho_text(point.rho)}{own}: reliance {share} {ends}".strip())
    table.add_column("images", overflow="fold")
    for name in ("accuracy", "gap, points", "changed"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_row(*map(Text, (OBSERVED, "\n".join(share_text(point.observed)), "", "")), end_section=True)
    for done in point.interventions:
        cells = (share_text(done.accuracy), gap_text(done), share_text(done.changed))
        table.add_row(Text(done_name(done)), *(Text("\n".join(cell)) for cell in cells), end_section=True)
    return table


def rhos_of(records: Sequence[RelianceRecord]) -> list[float | None]:
    """Every agreement probability that one of them has, rising; unknown last."""
    found = {None if point.rho is None else round(point.rho, 9) for record in records for point in record.points}
    return sorted(found, key=lambda rho: (rho is None, rho or 0.0))


def point_at(record: RelianceRecord, rho: float | None) -> ReliancePoint | None:
    """What the record has at an agreement probability, up to rounding."""
    same = (p for p in record.points if (None if p.rho is None else round(p.rho, 9)) == rho)
    return next(same, None)


def side_by_side_table(records: Sequence[RelianceRecord]) -> Table:
    """Model by rho: reliance with its interval; an asterisk marks the data's own rho."""
    rhos = rhos_of(records)
    table = plain_table(
        "Reliance: predictions that change under do(confounder = other), 95 % intervals, by rho of the test"
    )
    table.add_column("model", overflow="fold")
    table.add_column("n", justify="right", no_wrap=True)
    for rho in rhos:
        table.add_column(f"rho {rho_text(rho)}", justify="right", no_wrap=True)
    for name, record in zip(analysis_labels(records), records, strict=True):
        cells = [_cell(point_at(record, rho)) for rho in rhos]
        table.add_row(*map(Text, (name, str(record.n), *cells)), end_section=True)
    return table


def _cell(point: ReliancePoint | None) -> str:
    if point is None:
        return ""
    share, ends = share_text(point.reliance)
    return f"{share}{'*' if point.own else ''}\n{ends}"


__all__ = [
    "abstained_text",
    "done_name",
    "gap_text",
    "judge_text",
    "point_at",
    "reliance_csv",
    "reliance_files",
    "reliance_table",
    "rho_text",
    "rhos_of",
    "setting",
    "side_by_side_table",
    "unsteady_text",
]
