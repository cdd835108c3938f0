"""Tables for the terminal: readable at 80 columns, without colour, and with every accuracy's context beside it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rich import box
from rich.table import Table
from rich.text import Text

from deconfound.errors import require
from deconfound.records import EvaluationRecord
from deconfound.reporting.text import (
    check_state,
    clean,
    count,
    duration,
    interval,
    labels,
    listing,
    machine_text,
    percent,
    suite_text,
    threat_text,
    value_text,
    verdict_text,
)

# What must be known to read an accuracy; facts that all rows share move from the rows to the title.
_FACTS: tuple[Callable[[EvaluationRecord], str], ...] = (
    lambda record: clean(record.data),
    lambda record: threat_text(record.threat),
    lambda record: f"suite {suite_text(record)}",
    lambda record: f"n {record.n}",
    lambda record: f"seed {record.seed}",
)


def evaluation_table(record: EvaluationRecord) -> Table:
    """One evaluation: what was tested, both accuracies with 95 % intervals, verdict, survivors and cost.

    Args:
        record: the evaluation to show.

    Returns:
        A table of two columns; all text is literal, so names cannot carry markup or control codes into the terminal.
    """
    table = Table(title=Text(labels([record])[0]), box=box.SIMPLE, show_header=False, title_justify="left")
    table.add_column("what", no_wrap=True, style="bold")
    table.add_column("value", overflow="fold")
    for name, value in _setting_rows(record):
        table.add_row(name, Text(value))
    table.add_section()
    table.add_row("clean accuracy", Text(f"{percent(record.clean_accuracy)}  {interval(*record.clean_interval)}"))
    table.add_row("robust accuracy", Text(f"{percent(record.robust_accuracy)}  {interval(*record.robust_interval)}"))
    table.add_row("verdict", _verdict(record))
    for name, value in _doubt_rows(record):
        table.add_row(name, Text(value))
    table.add_section()
    for i, (name, value) in enumerate(_survivor_rows(record)):
        table.add_row("survivors" if i == 0 else "", Text(f"{name}: {value}"))
    table.add_section()
    table.add_row("cost", Text(_cost(record)))
    table.add_row("machine", Text(machine_text(record.machine)))
    return table


def leaderboard_table(records: Sequence[EvaluationRecord]) -> Table:
    """Several evaluations, one row each, best robust accuracy first among the reliable ones.

    Args:
        records: at least one evaluation.

    Returns:
        A table whose title says what all rows share; the column ``setting`` says what they do not.

    Raises:
        InputError: no records.
    """
    require(len(records) > 0, "records", len(records), "at least one evaluation record")
    shared = [fact(records[0]) for fact in _FACTS if len({fact(record) for record in records}) == 1]
    differing = [fact for fact in _FACTS if len({fact(record) for record in records}) > 1]
    title = "Accuracy with 95 % intervals" + (f": {', '.join(shared)}" if shared else "")
    table = Table(title=Text(title), box=box.SIMPLE, title_justify="left", pad_edge=False, padding=(0, 1))
    table.add_column("model", overflow="fold", ratio=4)
    if differing:
        table.add_column("setting", overflow="fold", ratio=3)
    table.add_column("clean", justify="right", no_wrap=True, min_width=12)
    table.add_column("robust", justify="right", no_wrap=True, min_width=12)
    table.add_column("verdict", overflow="fold", ratio=4, min_width=12)
    names = dict(zip(map(id, records), labels(records), strict=True))
    for record in ordered(records):
        setting = [Text("\n".join(fact(record) for fact in differing))] if differing else []
        accuracies = [
            Text(f"{percent(record.clean_accuracy)}\n{interval(*record.clean_interval)}"),
            Text(f"{percent(record.robust_accuracy)}\n{interval(*record.robust_interval)}"),
        ]
        table.add_row(Text(names[id(record)]), *setting, *accuracies, _verdict(record), end_section=True)
    return table


def ordered(records: Sequence[EvaluationRecord]) -> list[EvaluationRecord]:
    """Reliable before unreliable, then by robust accuracy from high to low; equal ones stay as given."""
    return sorted(records, key=lambda record: (not record.verdict.reliable, -_finite(record.robust_accuracy)))


def _finite(share: float) -> float:
    return share if share == share else -1.0


def _setting_rows(record: EvaluationRecord) -> list[tuple[str, str]]:
    return [
        ("data", f"{clean(record.data)}, {count(len(record.class_names), 'class', 'classes')}"),
        ("threat", threat_text(record.threat)),
        ("suite", suite_text(record)),
        ("n, seed", f"n {record.n}, seed {record.seed}"),
    ]


def _verdict(record: EvaluationRecord) -> Text:
    return Text(verdict_text(record.verdict), style="green" if record.verdict.reliable else "bold red")


def _doubt_rows(record: EvaluationRecord) -> list[tuple[str, str]]:
    checks = [
        f"{clean(check.name)} {check_state(check)}"
        f" (measured {value_text(check.measured)}, threshold {value_text(check.threshold)})"
        for check in record.verdict.checks
        if check.passed is False
    ]
    missing = [clean(check.name) for check in record.verdict.checks if check.passed is None]
    rows = [("", text) for text in checks]
    if missing:
        rows.append(("not checked", listing(missing)))
    if not record.verdict.checks:
        rows.append(("not checked", "no check of trust was recorded"))
    return rows + [("note", clean(note)) for note in record.notes]


def _survivor_rows(record: EvaluationRecord) -> list[tuple[str, str]]:
    if not record.attacks:
        return [("no attack was run", f"{percent(record.clean_accuracy)} of {record.n}")]
    return [(clean(a.name), f"{a.survivors} of {a.attacked} attacked, {duration(a.seconds)}") for a in record.attacks]


def _cost(record: EvaluationRecord) -> str:
    return f"{duration(record.seconds)}, {record.forwards:,} forwards, {record.backwards:,} backwards (images)"


__all__ = ["evaluation_table", "interval", "leaderboard_table", "ordered", "percent"]
