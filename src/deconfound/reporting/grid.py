"""Tables of words, before anyone decides where they are shown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
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
        table = markdown_rows(self.headings, self.rows)
        return "\n".join([f"{self.caption}.", "", table, *(f"\n{remark}." for remark in self.remarks)])


def markdown_rows(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    r"""Headings and rows as a Markdown table; a bar in a cell stays one.

    >>> print(markdown_rows(("a", "b"), [("1|2", "3")]))
    | a | b |
    | --- | --- |
    | 1\|2 | 3 |
    """
    return "\n".join([_line(headings), _line("---" for _ in headings), *map(_line, rows)])


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"
