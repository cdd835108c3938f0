"""A study in one row for each method, best first: what it withstands, and how it stands against its control."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from statistics import fmean, stdev

from deconfound.records import StudyRecord, StudyRun
from deconfound.records.studies import robust
from deconfound.reporting.comparison import p_text, points
from deconfound.reporting.grid import Grid
from deconfound.reporting.strength import deviation_text
from deconfound.reporting.study_doubt import answers, doubts, mark
from deconfound.reporting.text import clean, interval, listing, percent

UNEQUAL = "rows are means over the seeds that they name; rows of other seeds are compared by their paired difference"


def questions(record: StudyRecord) -> tuple[str, ...]:
    """What a study asks, in its order.

    Args:
        record: of the study.
    """
    return tuple(dict.fromkeys(one.question for run in record.runs for one in run.results))


def leaderboard_grid(record: StudyRecord, only: Collection[str] | None = None) -> Grid:
    """One row for each judged method: reliable ones first, then by robust accuracy under the study's first question.

    A single seed has its Wilson interval, several their mean and the standard deviation over seeds. The difference to
    the control is the paired one, with every seed's p of McNemar's test after Holm. Seeds of a cell are named where
    they are not those of its row.

    Args:
        record: of the study, with at least one judged run.
        only: methods to show, with what is to be said of them and their controls; None for all.
    """
    asked = questions(record)
    names = list(dict.fromkeys(run.name for run in record.runs if run.results and (only is None or run.name in only)))
    ranked = sorted(names, key=lambda name: _rank(record, name, asked[0]))
    headings = ("method", "seeds", "clean", *map(clean, asked), f"against its control, {clean(asked[0])}")
    rows = tuple(_row(record, name, asked) for name in ranked)
    sizes = listing([f"n {n} for {clean(question)}" for question in asked for n in [_size(record, question)]])
    seeds = {tuple(seed for seed, _ in answers(record, name, asked[0])) for name in names}
    controls = {run.control for run in record.runs if run.name in names and run.control}
    remarks = [*doubts(record, {*names, *controls}), *([UNEQUAL] if len(seeds - {()}) > 1 else [])]
    return Grid(f"Leaderboard of {clean(record.study)} by {clean(asked[0])}; {sizes}", headings, rows, tuple(remarks))


def _runs(record: StudyRecord, name: str) -> list[StudyRun]:
    return [run for run in record.runs if run.name == name and run.results]


def _size(record: StudyRecord, question: str) -> str:
    sizes = {one.n for run in record.runs for one in run.results if one.question == question}
    return " and ".join(map(str, sorted(sizes, reverse=True)))


def _rank(record: StudyRecord, name: str, question: str) -> tuple[bool, float]:
    found = [one for _, one in answers(record, name, question)]
    doubted = not found or not all(one.verdict.reliable for one in found)
    return doubted, -fmean(robust(one)[0] for one in found) if found else 0.0


def _row(record: StudyRecord, name: str, asked: Sequence[str]) -> tuple[str, ...]:
    runs = _runs(record, name)
    most = [max(run.results, key=lambda one: one.n) for run in runs]
    cells, own = [_cell([(one.clean_accuracy, one.clean_interval) for one in most])], [run.seed for run in runs]
    for question in asked:
        found = answers(record, name, question)
        theirs = [seed for seed, _ in found]
        seeds = f" ({_named(theirs)})" if found and theirs != own else ""
        cells.append(f"{_cell([robust(one) for _, one in found])}{seeds}{mark(record, [name], question)}")
    return clean(name), _listed(own), *cells, _against(record, name, asked[0])


def _listed(seeds: Sequence[int]) -> str:
    return ", ".join(map(str, seeds))


def _named(seeds: Sequence[int]) -> str:
    return f"seed{'s' * (len(seeds) > 1)} {_listed(seeds)}"


def _cell(found: Sequence[tuple[float, tuple[float, float]]]) -> str:
    if not found:
        return ""
    if len(found) == 1:
        share, (low, high) = found[0]
        return f"{percent(share)} {interval(low, high)}"
    shares = [share for share, _ in found]
    return f"{percent(fmean(shares))} {deviation_text(stdev(shares))}"


def _against(record: StudyRecord, name: str, question: str) -> str:
    """``+1.0 to pgd-at, p 0.12``, over seeds with each one's p."""
    over = next((one for one in record.differences if (one.method, one.question) == (name, question)), None)
    if over is None:
        return ""
    tests = [one for one in record.tests if (one.method, one.question) == (name, question)]
    p_values = ", ".join(p_text(one.test.robust.adjusted_p_value) for one in tests if one.test.robust)
    own = tuple(run.seed for run in _runs(record, name))
    seeds = "" if over.seeds == own else f" ({_named(over.seeds)})"
    spread = "" if over.deviation is None else f" {deviation_text(over.deviation)}"
    doubt = mark(record, [name, over.control], question, over.seeds)
    return f"{points(over.mean)}{spread} to {clean(over.control)}, p {p_values}{seeds}{doubt}"


__all__ = ["leaderboard_grid", "questions"]
