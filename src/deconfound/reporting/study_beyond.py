"""Attackers beyond the threat model one by one: what each left of every run, and a method minus its control."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from deconfound.records import ColumnResult, StudyRecord, StudyResult, StudyRun, StudyTest
from deconfound.records.beyond import CORRUPTIONS, beyond
from deconfound.reporting.comparison import p_text, points
from deconfound.reporting.grid import Grid
from deconfound.reporting.study_doubt import DAGGER, DIFFERENT, MAJORITY, MARK, PAIRS, mark
from deconfound.reporting.text import clean, listing, percent

TOGETHER = f"{CORRUPTIONS}: right under every kind of them at every severity"
NOTHING = "-"


def beyond_grids(record: StudyRecord) -> list[Grid]:
    """Two tables for each question whose attackers go beyond the threat model; the second one where there are tests.

    Args:
        record: of the study.
    """
    questions = dict.fromkeys(one.question for run in record.runs for one in run.results if beyond(one))
    grids = []
    for question in questions:
        grids.append(_accuracies(record, question))
        tests = [test for test in record.by_attacker if test.question == question]
        grids += [_differences(record, question, tests)] if tests else []
    return grids


def _accuracies(record: StudyRecord, question: str) -> Grid:
    asked = [(run, one) for run in record.runs for one in run.results if one.question == question and beyond(one)]
    found = [{one.name: one for one in beyond(answer)} for _, answer in asked]
    names = _in_order(found)
    rows = [_row(run, one, left, names) for (run, one), left in zip(asked, found, strict=True)]
    ends = [one.interval for left in found for one in left.values()]
    widest = max(high - low for low, high in ends)
    sizes = listing([f"n {n}" for n in sorted({one.n for _, one in asked})])
    caption = (
        f"Accuracy under each attacker beyond the threat model by itself, {clean(question)}, {sizes}; no 95 % interval"
        f" of these is wider than {100 * widest:.1f} points"
    )
    random = any(one.deviation is not None for _, one in asked)
    said = ((TOGETHER, CORRUPTIONS in names), (MAJORITY, random))
    remarks = tuple(line for line, needed in said if needed)
    return Grid(caption, ("method", "seed", "clean", *map(clean, names)), tuple(rows), remarks)


def _in_order(found: Iterable[dict[str, ColumnResult]]) -> list[str]:
    return list(dict.fromkeys(name for left in sorted(found, key=len, reverse=True) for name in left))


def _row(run: StudyRun, one: StudyResult, left: dict[str, ColumnResult], names: Sequence[str]) -> tuple[str, ...]:
    doubt = "" if one.verdict.reliable else MARK
    cells = (f"{percent(left[name].accuracy)}{doubt}" if name in left else NOTHING for name in names)
    return clean(run.name), str(run.seed), percent(one.clean_accuracy), *cells


def _differences(record: StudyRecord, question: str, tests: Sequence[StudyTest]) -> Grid:
    names = list(dict.fromkeys(test.attacker for test in tests))
    pairs: dict[tuple[str, str, int], dict[str, StudyTest]] = {}
    for test in tests:
        pairs.setdefault((test.method, test.control, test.seed), {})[test.attacker] = test
    rows = []
    for (method, control, seed), by_name in pairs.items():
        first = next(iter(by_name.values()))
        doubt = mark(record, (method, control), question, [seed])
        dagger = "" if first.same_attacks else f" {DAGGER}"
        cells = (f"{_cell(by_name.get(name))}{doubt}" for name in names)
        rows.append((f"{clean(method)} - {clean(control)}{dagger}", str(seed), str(first.test.n), *cells))
    tested = sum(test.test.robust is not None for test in tests)
    caption = (
        f"Method minus control in points under each of these by itself, on the same images: difference [95 % interval],"
        f" McNemar's p after Holm over {tested} tests"
    )
    doubted = any(MARK in cell for row in rows for cell in row)
    said = ((DIFFERENT, any(not test.same_attacks for test in tests)), (PAIRS, doubted))
    remarks = tuple(line for line, needed in said if needed)
    return Grid(caption, ("method - control", "seed", "n", *map(clean, names)), tuple(rows), remarks)


def _cell(test: StudyTest | None) -> str:
    found = None if test is None else test.test.robust
    if found is None:
        return NOTHING
    low, high = found.interval
    return f"{points(found.difference)} [{points(low)}, {points(high)}], p {p_text(found.adjusted_p_value)}"


__all__ = ["beyond_grids"]
