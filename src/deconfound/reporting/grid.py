"""Tables of words, before anyone decides where they are shown."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Grid:
    """A table of words: a caption, headings, rows as long as they are, and remarks below."""

    caption: str
    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    remarks: tuple[str, ...] = ()

    def markdown(self) -> str:
        """The table as Markdown, caption and remarks around it."""
        table = [_line(self.headings), _line("---" for _ in self.headings), *map(_line, self.rows)]
        return "\n".join([f"{self.caption}.", "", *table, *(f"\n{remark}." for remark in self.remarks)])


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"
