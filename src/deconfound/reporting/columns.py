"""The columns of an evaluation as rows of a table: what was seen first, then each attacker that ran by itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from deconfound.records import ColumnResult, EvaluationRecord, Interval
from deconfound.records.beyond import corruption
from deconfound.reporting.text import clean, listing, threat_text

GROUPS = {
    "seen": "seen",
    "robust": "robust",
    "column": "paper's column",
    "alone": "by itself",
    "transfer": "transferred",
    "norm": "other norm",
    "beyond": "beyond norms",
    "union": "together",
}

# Rows that show the record's own robust accuracy.
OWN = ("seen", "robust")


@dataclass(frozen=True)
class Row:
    """One attacker, or one kind of corruption with an accuracy for each severity.

    ``share`` of a kind is the mean over its severities, and so are the ends of its interval: however the severities
    depend on each other, their mean deviates by no more than they do on average.
    """

    name: str
    group: str
    bound: str
    n: int
    share: float
    interval: Interval
    severities: tuple[ColumnResult, ...] = ()


def column_rows(record: EvaluationRecord) -> list[Row]:
    """The seen attackers first, then the columns in their order, one row for all severities of a corruption."""
    if not record.columns:
        return []
    rows: dict[str, list[ColumnResult]] = {}
    for column in record.columns:
        kind = clean(corruption(column))
        rows.setdefault(f"kind {kind}" if kind else f"name {column.name}", []).append(column)
    return [_seen(record), *(_row(record, members) for members in rows.values())]


def columns_title(record: EvaluationRecord) -> str:
    """What the table is about."""
    return "Seen and unseen attackers" if _unseen(record) else f"Columns of suite {clean(record.suite)}"


def sizes(rows: Sequence[Row]) -> str:
    """How many images the rows are about."""
    found = sorted({row.n for row in rows})
    return str(found[0]) if len(found) == 1 else f"{found[0]} to {found[-1]}"


def severity(column: ColumnResult) -> int:
    """Of a corruption's column, from 1."""
    return int(column.settings.get("severity") or column.name.rpartition("-")[2])


def widest(rows: Sequence[Row]) -> float:
    """The width of the widest interval of a single severity, a share."""
    return max((c.interval[1] - c.interval[0] for row in rows for c in row.severities), default=0.0)


def _unseen(record: EvaluationRecord) -> bool:
    """Whether the table sets what the suite ran against attackers that training did not know."""
    return bool(record.attacks) and any(column.group in ("norm", "beyond") for column in record.columns)


def _seen(record: EvaluationRecord) -> Row:
    names = [clean(attack.name) for attack in record.attacks]
    bound = threat_text(record.threat)
    whole = f"all {len(names)} attacks of the suite" if names else "all columns within it"
    return Row(
        name=listing(names) if 0 < len(names) <= 3 else whole,
        group="seen" if _unseen(record) else "robust",
        bound=bound,
        n=record.n,
        share=record.robust_accuracy,
        interval=record.robust_interval,
    )


def _row(record: EvaluationRecord, members: Sequence[ColumnResult]) -> Row:
    first = members[0]
    kind = clean(corruption(first))
    ordered = tuple(sorted(members, key=severity)) if kind else ()
    return Row(
        name=kind.replace("_", " ") or _name(record, first),
        group=first.group,
        bound=f"severities {', '.join(str(severity(c)) for c in ordered)}" if kind else _bound(first),
        n=first.n,
        share=fmean(column.accuracy for column in members),
        interval=(fmean(c.interval[0] for c in members), fmean(c.interval[1] for c in members)),
        severities=ordered,
    )


def _name(record: EvaluationRecord, column: ColumnResult) -> str:
    if column.group != "union":
        return clean(column.name)
    return "all unseen together" if _unseen(record) else "all columns together"


def _bound(column: ColumnResult) -> str:
    if column.group == "union":
        return "any of them"
    return clean(str(column.settings.get("bound") or column.threat)) or "not recorded"


__all__ = ["GROUPS", "OWN", "Row", "column_rows", "columns_title", "severity", "sizes", "widest"]
