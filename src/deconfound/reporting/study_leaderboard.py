"""A study in one row for each method, best first: what it withstands, and how it stands against its control."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean, stdev

from deconfound.records import StudyRecord, StudyResult, StudyRun
from deconfound.reporting.comparison import p_text, points
from deconfound.reporting.grid import Grid
from deconfound.reporting.strength import deviation_text
from deconfound.reporting.text import clean, interval, listing, percent


def questions(record: StudyRecord) -> tuple[str, ...]:
    """What a study asks, in its order.

    Args:
        record: of the study.
    """
    return tuple(dict.fromkeys(one.question for run in record.runs for one in run.results))


def leaderboard_grid(record: StudyRecord) -> Grid:
    """One row for each judged method: reliable ones first, then by robust accuracy under the study's first question.

    A single seed has its Wilson interval, several their mean and the standard deviation over seeds. The difference to
    the control is the paired one, with every seed's p of McNemar's test after Holm.

    Args:
        record: of the study, with at least one judged run.
    """
    asked = questions(record)
    names = list(dict.fromkeys(run.name for run in record.runs if run.results))
    ranked = sorted(names, key=lambda name: _rank(_runs(record, name), asked[0]))
    headings = ("method", "seeds", "clean", *map(clean, asked), f"against its control, {clean(asked[0])}")
    rows = tuple(_row(record, name, asked) for name in ranked)
    sizes = listing([f"n {n} for {clean(question)}" for question in asked for n in [_size(record, question)]])
    return Grid(f"Leaderboard of {clean(record.study)} by {clean(asked[0])}; {sizes}", headings, rows)


def robust(one: StudyResult) -> tuple[float, tuple[float, float]]:
    """What all that a question asked left together, and its interval.

    Args:
        one: answer to the question.
    """
    union = next((column for column in one.columns if column.group == "union"), None)
    return (one.robust_accuracy, one.robust_interval) if union is None else (union.accuracy, union.interval)


def _runs(record: StudyRecord, name: str) -> list[StudyRun]:
    return [run for run in record.runs if run.name == name and run.results]


def _answers(runs: Sequence[StudyRun], question: str) -> list[StudyResult]:
    return [one for run in runs for one in run.results if one.question == question]


def _size(record: StudyRecord, question: str) -> str:
    sizes = {one.n for run in record.runs for one in run.results if one.question == question}
    return " and ".join(map(str, sorted(sizes, reverse=True)))


def _rank(runs: Sequence[StudyRun], question: str) -> tuple[bool, float]:
    found = _answers(runs, question)
    doubted = not found or not all(one.verdict.reliable for one in found)
    return doubted, -fmean(robust(one)[0] for one in found) if found else 0.0


def _row(record: StudyRecord, name: str, asked: Sequence[str]) -> tuple[str, ...]:
    runs = _runs(record, name)
    most = [max(run.results, key=lambda one: one.n) for run in runs]
    cells = [_cell([(one.clean_accuracy, one.clean_interval) for one in most], doubted=False)]
    for question in asked:
        found = _answers(runs, question)
        doubted = not all(one.verdict.reliable for one in found)
        cells.append(_cell([robust(one) for one in found], doubted=doubted))
    seeds = ", ".join(str(run.seed) for run in runs)
    return clean(name), seeds, *cells, _against(record, name, asked[0])


def _cell(found: Sequence[tuple[float, tuple[float, float]]], *, doubted: bool) -> str:
    if not found:
        return ""
    doubt = " UNRELIABLE" if doubted else ""
    if len(found) == 1:
        share, (low, high) = found[0]
        return f"{percent(share)} {interval(low, high)}{doubt}"
    shares = [share for share, _ in found]
    return f"{percent(fmean(shares))} {deviation_text(stdev(shares))}{doubt}"


def _against(record: StudyRecord, name: str, question: str) -> str:
    """``+1.0 to pgd-at, p 0.12``, over seeds with each one's p."""
    over = next((one for one in record.differences if (one.method, one.question) == (name, question)), None)
    if over is None:
        return ""
    tests = [one for one in record.tests if (one.method, one.question) == (name, question)]
    p_values = ", ".join(p_text(one.test.robust.adjusted_p_value) for one in tests if one.test.robust)
    spread = "" if over.deviation is None else f" {deviation_text(over.deviation)}"
    return f"{points(over.mean)}{spread} to {clean(over.control)}, p {p_values}"


__all__ = ["leaderboard_grid", "questions", "robust"]
