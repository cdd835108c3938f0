"""The frame of every table for the terminal."""

from __future__ import annotations

from rich import box
from rich.table import Table
from rich.text import Text


def plain_table(title: str) -> Table:
    """An empty table under its title, without rules at its sides; markup in the title is shown as it is."""
    return Table(title=Text(title), box=box.SIMPLE, title_justify="left", pad_edge=False, padding=(0, 1))
