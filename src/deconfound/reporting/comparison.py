"""A comparison for the terminal: rows, then pairs, then what to distrust; readable at 80 columns, without colour."""

from __future__ import annotations

from collections.abc import Callable
from string import ascii_uppercase

from rich.console import Group
from rich.table import Table
from rich.text import Text

from deconfound.records import ComparedEvaluation, Comparison, PairedDifference, PairedTest
from deconfound.reporting.plain import plain_table
from deconfound.reporting.text import clean, count, interval, percent, threat_text, verdict_text

# What must be known to read an accuracy; facts that all rows share move from the rows to the title.
_FACTS: tuple[Callable[[ComparedEvaluation], str], ...] = (
    lambda row: threat_text(row.threat),
    lambda row: f"suite {clean(row.suite)}",
    lambda row: f"budget {clean(row.budget)}",
    lambda row: f"n {row.n}",
    lambda row: f"seed {row.seed}",
    lambda row: f"precision {clean(row.precision)}",
)


def comparison_view(comparison: Comparison) -> Group:
    """Both tables and the warnings, ready to print; all text is literal.

    Args:
        comparison: the comparison to show.

    Returns:
        The table of accuracies, where each row has a letter, the table of pairs ``A - B``, and a line per warning.
    """
    warnings = [Text(f"warning: {clean(line)}") for line in comparison.warnings]
    return Group(accuracy_table(comparison), pair_table(comparison), *warnings)


def accuracy_table(comparison: Comparison) -> Table:
    """One row for each evaluation: both accuracies with 95 % intervals, and the verdict."""
    rows = comparison.evaluations
    shared = [fact(rows[0]) for fact in _FACTS if len({fact(row) for row in rows}) == 1]
    differing = [fact for fact in _FACTS if len({fact(row) for row in rows}) > 1]
    title = f"Accuracy with 95 % intervals: {', '.join([clean(comparison.data), *shared])}"
    table = plain_table(title)
    table.add_column("")
    table.add_column("model", overflow="fold", ratio=4)
    if differing:
        table.add_column("setting", overflow="fold", ratio=3)
    table.add_column("clean", justify="right", no_wrap=True, min_width=12)
    table.add_column("robust", justify="right", no_wrap=True, min_width=12)
    table.add_column("verdict", overflow="fold", ratio=4, min_width=12)
    for place, row in enumerate(rows):
        setting = [Text("\n".join(fact(row) for fact in differing))] if differing else []
        accuracies = [
            Text(f"{percent(row.clean_accuracy)}\n{interval(*row.clean_interval)}"),
            Text(f"{percent(row.robust_accuracy)}\n{interval(*row.robust_interval)}"),
        ]
        verdict = Text(verdict_text(row.verdict))
        table.add_row(letter(place), Text(clean(row.label)), *setting, *accuracies, verdict, end_section=True)
    return table


def pair_table(comparison: Comparison) -> Table:
    """Two lines for each pair, robust and clean, or the reason why the pair is not compared."""
    tested = sum(not pair.not_compared for pair in comparison.pairs)
    adjusted = comparison.adjust != "none"
    over = f", adjusted over {count(tested, 'pair')} (Holm)" if adjusted and tested else ""
    table = plain_table(f"First minus second in points, 95 % intervals; exact McNemar test{over}")
    table.add_column("pair", no_wrap=True)
    table.add_column("", no_wrap=True)
    for name in ("n", "only\nfirst", "only\nsecond"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("difference", overflow="fold", ratio=1, min_width=20)
    for name in ["p", *(["p Holm"] if adjusted else [])]:
        table.add_column(name, justify="right", no_wrap=True)
    places = {row.label: place for place, row in enumerate(comparison.evaluations)}
    for pair in comparison.pairs:
        name = f"{letter(places[pair.first])} - {letter(places[pair.second])}"
        if pair.not_compared:
            table.add_row(name, "", "", "", "", Text(clean(f"not compared: {pair.not_compared}")), end_section=True)
        doubts = [
            f"{letter(places[label])} {verdict_text(comparison.evaluations[places[label]].verdict)}"
            for label in (pair.first, pair.second)
            if not comparison.evaluations[places[label]].verdict.reliable
        ]
        for what, found, remarks in (("robust", pair.robust, doubts), ("clean", pair.clean, [])):
            if found is not None:
                cells = _cells(pair, found, remarks, adjusted=adjusted)
                table.add_row(name, what, *cells, end_section=what == "clean")
                name = ""
    return table


def letter(place: int) -> str:
    """The letter of a row, as a spreadsheet names its columns.

    >>> letter(0), letter(25), letter(26), letter(27)
    ('A', 'Z', 'AA', 'AB')
    """
    return (letter(place // 26 - 1) if place >= 26 else "") + ascii_uppercase[place % 26]


def points(share: float) -> str:
    """A signed share in points of per cent.

    >>> points(0.0612), points(-0.5), points(-0.0001)
    ('+6.1', '-50.0', '+0.0')
    """
    return f"{round(100 * share, 1) + 0.0:+.1f}"


def p_text(p: float | None) -> str:
    """A p-value with three decimals.

    >>> p_text(0.0312), p_text(0.0002), p_text(None)
    ('0.031', '<0.001', '')
    """
    return "" if p is None else "<0.001" if p < 0.001 else f"{p:.3f}"


def _cells(pair: PairedTest, found: PairedDifference, remarks: list[str], *, adjusted: bool) -> list[Text]:
    low, high = found.interval
    difference = "\n".join([f"{points(found.difference)} [{points(low)}, {points(high)}]", *remarks])
    cells = [str(pair.n), str(found.only_first), str(found.only_second), difference, p_text(found.p_value)]
    return [Text(cell) for cell in [*cells, *([p_text(found.adjusted_p_value)] if adjusted else [])]]


__all__ = ["accuracy_table", "comparison_view", "letter", "p_text", "pair_table", "points"]
