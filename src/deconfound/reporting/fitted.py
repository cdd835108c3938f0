"""A grid on a screen: in one table where its words fit, else in several that begin with the same columns."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

from deconfound.reporting.grid import Grid
from deconfound.reporting.plain import plain_table

_KEYS = frozenset({"method", "method - control", "attacker", "question", "seed", "seeds", "at"})
_PADDING = 3  # of every column, its divider included


class Fitted:
    """A grid that is broken between columns, and not inside words, on a screen that is narrower than it.

    Args:
        grid: its leading columns that say what a row is of (method, seed, attacker, …) stand in every part.
    """

    def __init__(self, grid: Grid) -> None:
        self.grid = grid

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """The tables, and the remarks below the last one."""
        parts = list(_parts(self.grid, options.max_width))
        for number, columns in enumerate(parts, 1):
            part = f" ({number} of {len(parts)})" if len(parts) > 1 else ""
            yield _table(self.grid, columns, f"{self.grid.caption}{part}", options.max_width)
        yield from map(Text, self.grid.remarks)


def _parts(grid: Grid, width: int) -> Iterator[list[int]]:
    """The columns of each table."""
    least = [narrowest for narrowest, _ in _widths(grid)]
    keys = next((i for i, heading in enumerate(grid.headings) if heading not in _KEYS), len(least))
    others, shown = list(range(keys, len(least))), list(range(keys))
    if not others:
        yield shown
    while others:
        count, room = 0, width - sum(least[i] for i in shown)
        while count < len(others) and (room := room - least[others[count]]) >= 0:
            count += 1
        count = max(count, 1)  # a screen that not even one fits on
        yield [*shown, *others[:count]]
        others = others[count:]


def _widths(grid: Grid) -> list[tuple[int, int]]:
    """The longest word and the longest cell of each column, with what is around them."""
    columns = list(zip(grid.headings, *grid.rows, strict=True))
    words = [max((len(word) for cell in column for word in cell.split()), default=0) for column in columns]
    return [(word + _PADDING, max(map(len, column)) + _PADDING) for word, column in zip(words, columns, strict=True)]


def _table(grid: Grid, columns: list[int], caption: str, width: int) -> Table:
    """Some columns. Rich shrinks any of them, also below its longest word, so that their widths are given."""
    widths = [_widths(grid)[i] for i in columns]
    room, more = width - sum(least for least, _ in widths), sum(most - least for least, most in widths)
    table = plain_table(caption)
    for i, (least, most) in zip(columns, widths, strict=True):
        given = least + (most - least) * room // more - _PADDING if 0 <= room < more else None
        table.add_column(Text(grid.headings[i]), overflow="fold", width=given)
    for row in grid.rows:
        table.add_row(*(Text(row[i]) for i in columns))
    return table


__all__ = ["Fitted"]
