"""The columns of an evaluation for the terminal: attackers, then corruptions with one accuracy for each severity."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from deconfound.records import EvaluationRecord
from deconfound.reporting.columns import GROUPS, OWN, Row, column_rows, columns_title, severity, sizes, widest
from deconfound.reporting.plain import plain_table
from deconfound.reporting.strength import accuracy_text
from deconfound.reporting.text import clean, interval, percent, verdict_text


def column_tables(record: EvaluationRecord) -> list[Table]:
    """No table without columns; else one of attackers, and one of corruptions where there are any."""
    rows = column_rows(record)
    kinds = [row for row in rows if row.severities]
    if not rows:
        return []
    others = [row for row in rows if not row.severities]
    return [_attackers(record, others), *([_corruptions(record, kinds)] if kinds else [])]


def _attackers(record: EvaluationRecord, rows: Sequence[Row]) -> Table:
    table = _table(record, f"{columns_title(record)}: accuracy with 95 % intervals, n {sizes(rows)}")
    table.add_column("attacker", overflow="fold", ratio=3)
    table.add_column("", overflow="fold", ratio=2)
    table.add_column("bound", overflow="fold", ratio=3)
    table.add_column("accuracy", justify="right", no_wrap=True)
    for place, row in enumerate(rows):
        last = place + 1 == len(rows) or rows[place + 1].group != row.group
        share = f"{percent(row.share)} {interval(*row.interval)}"
        if row.group in OWN:
            share = accuracy_text(record, robust=True, gap=" ")
        cells = (row.name, GROUPS.get(row.group, clean(row.group)), row.bound, share)
        table.add_row(*map(Text, cells), end_section=last)
    return table


def _corruptions(record: EvaluationRecord, rows: Sequence[Row]) -> Table:
    levels = sorted({severity(column) for row in rows for column in row.severities})
    title = (
        f"Corruptions by severity: accuracy in %, n {sizes(rows)}; means with the mean of their 95 % intervals,"
        f" none of which is wider than {100 * widest(rows):.1f} points"
    )
    table = _table(record, title)
    table.add_column("corruption", overflow="fold", ratio=1)
    for level in levels:
        table.add_column(str(level), justify="right", no_wrap=True)
    table.add_column("mean", justify="right", no_wrap=True)
    for row in rows:
        shares = {severity(column): percent(column.accuracy).removesuffix(" %") for column in row.severities}
        mean = f"{percent(row.share)} {interval(*row.interval)}"
        table.add_row(Text(row.name), *(Text(shares.get(level, "")) for level in levels), Text(mean))
    return table


def _table(record: EvaluationRecord, title: str) -> Table:
    table = plain_table(title)
    if not record.verdict.reliable:
        table.caption = Text(verdict_text(record.verdict), style="bold red")
        table.caption_justify = "left"
    return table


__all__ = ["column_tables"]
