"""The attackers of a study that ran by themselves, side by side for all its runs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from deconfound.records import ColumnResult, StudyRecord, StudyResult, StudyRun
from deconfound.reporting.grid import Grid
from deconfound.reporting.study_doubt import MAJORITY, MARK
from deconfound.reporting.text import clean, listing, percent

SHOWN = ("alone", "column", "transfer")
"""Groups of columns that one number says; other norms and corruptions have a table of their own in each evaluation."""
UNION = "all together"
NOTHING = "-"


def attacker_grids(record: StudyRecord) -> list[Grid]:
    """One table for each question that has columns: a row for each attacker, a column for each run.

    Args:
        record: of the study.
    """
    questions = dict.fromkeys(one.question for run in record.runs for one in run.results if _columns(one))
    return [_grid(record, question) for question in questions]


def _columns(one: StudyResult) -> list[ColumnResult]:
    """Those that are shown, and what they leave together; none where only that is left."""
    shown = [column for column in one.columns if column.group in (*SHOWN, "union")]
    return shown if any(column.group in SHOWN for column in shown) else []


def _grid(record: StudyRecord, question: str) -> Grid:
    asked = [(run, one) for run in record.runs for one in run.results if one.question == question and _columns(one)]
    found = [{_named(column): column for column in _columns(one)} for _, one in asked]
    names = _in_order(found)
    rows = [("clean", *(percent(one.clean_accuracy) for _, one in asked))]
    rows += [(clean(name), *(_cell(columns.get(name)) for columns in found)) for name in names]
    sizes = listing([f"n {n}" for n in sorted({one.n for _, one in asked})])
    caption = (
        f"Accuracy under each attacker by itself, {clean(question)}, {sizes}; no 95 % interval of these is wider than"
        f" {100 * _widest(found):.1f} points"
    )
    headings = ("attacker", *(_heading(record, run, one) for run, one in asked))
    random = [MAJORITY] if any(one.deviation is not None for _, one in asked) else []
    return Grid(caption, headings, tuple(rows), (*_remarks(asked), *random))


def _named(column: ColumnResult) -> str:
    return UNION if column.group == "union" else column.name


def _in_order(found: Sequence[dict[str, ColumnResult]]) -> list[str]:
    """As the longest list has them, then what only others have; the union last."""
    names = dict.fromkeys(name for columns in sorted(found, key=len, reverse=True) for name in columns)
    return [*(name for name in names if name != UNION), *([UNION] if UNION in names else [])]


def _cell(column: ColumnResult | None) -> str:
    return NOTHING if column is None else percent(column.accuracy)


def _heading(record: StudyRecord, run: StudyRun, one: StudyResult) -> str:
    several = sum(other.name == run.name for other in record.runs) > 1
    return clean(run.name) + (f", seed {run.seed}" if several else "") + ("" if one.verdict.reliable else MARK)


def _widest(found: Iterable[dict[str, ColumnResult]]) -> float:
    return max(column.interval[1] - column.interval[0] for columns in found for column in columns.values())


def _remarks(asked: Sequence[tuple[StudyRun, StudyResult]]) -> list[str]:
    """Which runs were asked in which words, where not all were asked in the same."""
    lines: dict[str, dict[str, None]] = {}
    for run, one in asked:
        lines.setdefault(clean(one.judgement), {})[clean(run.name)] = None
    return [f"{name}: {listing(list(runs))}" for name, runs in lines.items()] if len(lines) > 1 else []
