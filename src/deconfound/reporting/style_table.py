"""A content/style analysis for the terminal: who reads the images, and what each basis lets through."""

from __future__ import annotations

from rich.console import Group
from rich.table import Table
from rich.text import Text

from deconfound.records import StyleRecord
from deconfound.reporting.plain import plain_table
from deconfound.reporting.style_rows import basis_cells, basis_name, reader_rows, setting
from deconfound.reporting.text import analysis_labels, clean


def style_table(record: StyleRecord) -> Group:
    """Accuracies with 95 % intervals and shifts, then what each basis lets through, then notes."""
    notes = [Text(f"Note: {clean(note)}") for note in record.notes]
    return Group(_readers(record), _bases(record), *notes)


def _readers(record: StyleRecord) -> Table:
    title = f"{analysis_labels([record])[0]}: {setting(record)}\nAccuracy with 95 % intervals, shift of P(Y) in nats"
    table = plain_table(title)
    table.add_column("reads", overflow="fold")
    for name in ("natural", "adversarial"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("shift (KL)", justify="right", no_wrap=True)
    for row in reader_rows(record):
        _, shift, divergence = row.numbers
        accuracies = ("\n".join(one) for one in row.accuracies)
        table.add_row(*map(Text, (row.name, *accuracies, f"{shift} ({divergence})")), end_section=True)
    return table


def _bases(record: StyleRecord) -> Table:
    table = plain_table("Leakage of content into style: correlations of all combinations (canonical) and one by one")
    table.add_column("", overflow="fold")
    for basis in record.bases:
        table.add_column(Text(basis_name(basis)), justify="right", overflow="fold")
    cells = [basis_cells(basis) for basis in record.bases]
    for name in cells[0]:
        table.add_row(Text(name), *(Text(one[name]) for one in cells))
    return table


__all__ = ["style_table"]
