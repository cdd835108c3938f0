"""A study as tables of words: accuracies of every run and over seeds, and differences to controls."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rich.console import Group

from deconfound.records import StudyDifference, StudyMean, StudyRecord, StudyResult, StudyRun, StudyTest
from deconfound.records.studies import robust
from deconfound.reporting.comparison import p_text, points
from deconfound.reporting.fitted import Fitted
from deconfound.reporting.grid import Grid
from deconfound.reporting.strength import deviation_text
from deconfound.reporting.study_analyses import analysis_grids
from deconfound.reporting.study_beyond import beyond_grids
from deconfound.reporting.study_columns import attacker_grids
from deconfound.reporting.study_doubt import (
    DAGGER,
    DIFFERENT,
    MAJORITY,
    MARK,
    PAIRS,
    answers,
    doubts,
    mark,
    random_judges,
)
from deconfound.reporting.study_leaderboard import leaderboard_grid, questions
from deconfound.reporting.text import clean, interval, listing, percent, threat_text

# What must be known to read an accuracy; what all results share moves from the cells to the caption.
_FACTS: tuple[Callable[[StudyResult], str], ...] = (
    lambda one: threat_text(one.threat),
    lambda one: f"n {one.n}",
    lambda one: f"attack seed {one.seed}",
)


def study_grids(record: StudyRecord) -> list[Grid]:
    """The tables of a study: leaderboard, every run, differences to controls, attackers alone, what analyses found.

    Args:
        record: of the study.
    """
    ranked = [leaderboard_grid(record)] if record.tests and questions(record) else []
    tests = [difference_grid(record)] if record.tests else []
    return [
        *ranked,
        accuracy_grid(record),
        *tests,
        *attacker_grids(record),
        *beyond_grids(record),
        *analysis_grids(record),
    ]


def accuracy_grid(record: StudyRecord) -> Grid:
    """One row for each run and one for the mean over a method's seeds; one column for each question."""
    results = [one for run in record.runs for one in run.results]
    asked = questions(record)
    shared = [facts.pop() for facts in ({fact(one) for one in results} for fact in _FACTS) if len(facts) == 1]
    own = [fact for fact in _FACTS if len({fact(one) for one in results}) > 1]
    split = [q for q in asked if any(one.undeclared for one in results if one.question == q)]
    headings = ["method", "seed", "clean"]
    for question in asked:
        headings += [*([f"{clean(question)} without declared attacks"] if question in split else []), clean(question)]
    rows: list[tuple[str, ...]] = []
    for name in dict.fromkeys(run.name for run in record.runs):
        mine = [run for run in record.runs if run.name == name]
        rows += [_run_row(run, asked, split, own) for run in mine]
        over = [mean for mean in record.means if mean.name == name and len(mean.seeds) > 1]
        if over:
            rows.append(_mean_row(record, name, over, asked, split))
    data = listing(list(dict.fromkeys(clean(run.data).partition("[")[0] for run in record.runs)))
    caption = f"Accuracy with 95 % Wilson intervals: {', '.join([data, *shared])}"
    remarks = (*doubts(record), *_missing(record))
    return Grid(caption, (*headings, "verdict"), tuple(rows), remarks)


def _missing(record: StudyRecord) -> list[str]:
    """What is not done, one line for all runs that lack the same."""
    lacking: dict[str, list[str]] = {}
    for line in record.missing:
        run, _, what = line.partition(": ")
        lacking.setdefault(clean(what), []).append(clean(run))
    return [f"not done: {listing(runs)}{f': {what}' if what else ''}" for what, runs in lacking.items()]


def _run_row(
    run: StudyRun, asked: Sequence[str], split: Sequence[str], own: Sequence[Callable[[StudyResult], str]]
) -> tuple[str, ...]:
    cells = [clean(run.name), str(run.seed), _clean_cell(run.results)]
    for question in asked:
        one = next((result for result in run.results if result.question == question), None)
        if question in split:
            cells.append(_undeclared_cell(one))
        cells.append("" if one is None else _robust_cell(one, own))
    return (*cells, _verdicts(run.results))


def _clean_cell(results: Sequence[StudyResult]) -> str:
    """The clean accuracy on the most images that any judgement saw."""
    if not results:
        return ""
    most = max(results, key=lambda one: one.n)
    return f"{percent(most.clean_accuracy)} {interval(*most.clean_interval)} (n {most.n})"


def _undeclared_cell(one: StudyResult | None) -> str:
    if one is None:
        return ""
    if one.undeclared is None:  # it declares none, so that the suite is without them
        return f"{percent(one.robust_accuracy)} {interval(*one.robust_interval)}{_doubt(one)}"
    return f"{percent(one.undeclared.share)} {interval(*one.undeclared.interval)}{_doubt(one)}"


def _doubt(one: StudyResult) -> str:
    return "" if one.verdict.reliable else MARK


def _robust_cell(one: StudyResult, own: Sequence[Callable[[StudyResult], str]]) -> str:
    deviation = "" if one.deviation is None else f" {deviation_text(one.deviation)}"
    facts = f" ({', '.join(fact(one) for fact in own)})" if own else ""
    seen = f"{percent(one.robust_accuracy)}{deviation} {interval(*one.robust_interval)}{facts}{_doubt(one)}"
    left, ends = robust(one)
    if left == one.robust_accuracy:
        return seen
    return f"{seen}; all columns together {percent(left)} {interval(*ends)}"


def _verdicts(results: Sequence[StudyResult]) -> str:
    if not results:
        return "not judged"
    return "reliable" if all(one.verdict.reliable for one in results) else "UNRELIABLE"


def _mean_row(
    record: StudyRecord, name: str, over: Sequence[StudyMean], asked: Sequence[str], split: Sequence[str]
) -> tuple[str, ...]:
    first = max(over, key=lambda mean: mean.n)
    cells = [clean(name), f"mean of {', '.join(map(str, first.seeds))}", _over(first.clean_mean, first.clean_deviation)]
    for question in asked:
        mean = next((mean for mean in over if mean.question == question), None)
        cells += [""] if question in split else []
        if mean is None:
            cells.append("")
            continue
        seeds = "" if mean.seeds == first.seeds else f" (seeds {', '.join(map(str, mean.seeds))})"
        doubt = mark(record, [name], question, mean.seeds)
        cells.append(f"{_over(mean.robust_mean, mean.robust_deviation)}{seeds}{doubt}")
    return (*cells, _verdicts([one for question in asked for _, one in answers(record, name, question)]))


def _over(mean: float, deviation: float | None) -> str:
    return percent(mean) + ("" if deviation is None else f" {deviation_text(deviation)} over seeds")


def difference_grid(record: StudyRecord) -> Grid:
    """One row for each test of robust accuracy, seed by seed, and one for their mean where there are several."""
    rows: list[tuple[str, ...]] = []
    groups: dict[tuple[str, str, str], list[StudyTest]] = {}
    for test in record.tests:
        groups.setdefault((test.method, test.control, test.question), []).append(test)
    for key, tests in groups.items():
        rows += [_test_row(record, test) for test in tests]
        over = next((d for d in record.differences if (d.method, d.control, d.question) == key), None)
        if over is not None and len(over.seeds) > 1:
            rows.append(_difference_row(record, over))
    families = [f"{sum(t.question == q and not t.test.not_compared for t in record.tests)} of {clean(q)}"
                for q in dict.fromkeys(test.question for test in record.tests)]  # fmt: skip
    caption = f"Method minus control in points of robust accuracy on the same images; Holm over {listing(families)}"
    headings = ("method - control", "question", "seed", "n", "difference", "McNemar p", "p Holm")
    marked = any(not test.same_attacks and not test.test.not_compared for test in record.tests)
    doubted = any(MARK in row[4] for row in rows)
    said = ((DIFFERENT, marked), (PAIRS, doubted), (MAJORITY, random_judges(record)))
    return Grid(caption, headings, tuple(rows), tuple(line for line, needed in said if needed))


def _test_row(record: StudyRecord, one: StudyTest) -> tuple[str, ...]:
    name = f"{clean(one.method)} - {clean(one.control)}"
    found = one.test.robust
    if found is None:
        return name, clean(one.question), str(one.seed), "", f"not compared: {clean(one.test.not_compared)}", "", ""
    dagger = "" if one.same_attacks else f" {DAGGER}"
    doubt = mark(record, [one.method, one.control], one.question, [one.seed])
    low, high = found.interval
    difference = f"{points(found.difference)} [{points(low)}, {points(high)}]{dagger}{doubt}"
    p_values = p_text(found.p_value), p_text(found.adjusted_p_value)
    return name, clean(one.question), str(one.seed), str(one.test.n), difference, *p_values


def _difference_row(record: StudyRecord, over: StudyDifference) -> tuple[str, ...]:
    spread = "" if over.deviation is None else f" {deviation_text(over.deviation)} over seeds"
    doubt = mark(record, [over.method, over.control], over.question, over.seeds)
    seeds = f"mean of {', '.join(map(str, over.seeds))}"
    name = f"{clean(over.method)} - {clean(over.control)}"
    return name, clean(over.question), seeds, "", f"{points(over.mean)}{spread}{doubt}", "", ""


def markdown_table(record: StudyRecord) -> str:
    """The tables of a study as Markdown, for documents that must not be typed by hand."""
    return "\n\n".join(grid.markdown() for grid in study_grids(record)) + "\n"


def study_view(record: StudyRecord) -> Group:
    """The tables of a study for the terminal; all text is literal."""
    return Group(*map(Fitted, study_grids(record)))


__all__ = ["Grid", "accuracy_grid", "difference_grid", "markdown_table", "study_grids", "study_view"]
