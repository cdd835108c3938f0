"""Tables for the terminal: readable at 80 columns, without colour, and with every accuracy's context beside it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from deconfound.errors import require
from deconfound.records import AttackResult, EvaluationRecord
from deconfound.reporting.column_tables import column_tables
from deconfound.reporting.columns import column_rows
from deconfound.reporting.plain import plain_table
from deconfound.reporting.strength import (
    accuracy_text,
    audit_brief,
    audit_text,
    judge_text,
    on_sample,
    seeds_text,
    strength,
)
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


def evaluation_table(record: EvaluationRecord) -> Group:
    """One evaluation: what was tested, accuracies with 95 % intervals, verdict, audit, survivors, cost, columns.

    Args:
        record: the evaluation to show.

    Returns:
        A table of two columns, and the tables of the attackers that ran by themselves; all text is literal, so names
        cannot carry markup or control codes into the terminal.
    """
    return Group(_overview(record), *column_tables(record))


def _overview(record: EvaluationRecord) -> Table:
    table = Table(title=Text(labels([record])[0]), box=box.SIMPLE, show_header=False, title_justify="left")
    table.add_column("what", no_wrap=True, style="bold")
    table.add_column("value", overflow="fold")
    for name, value in _setting_rows(record):
        table.add_row(name, Text(value))
    table.add_section()
    table.add_row("clean accuracy", Text(accuracy_text(record, robust=False)))
    table.add_row("robust accuracy", Text(accuracy_text(record, robust=True)))
    table.add_row("verdict", _verdict(record))
    notes = [("note", clean(note)) for note in record.notes]
    for name, value in (*_doubt_rows(record), *_trust_rows(record), *notes):
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
    table = plain_table(title)
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
            Text(accuracy_text(record, robust=False, gap="\n")),
            Text(accuracy_text(record, robust=True, gap="\n")),
        ]
        table.add_row(Text(names[id(record)]), *setting, *accuracies, _remarks(record), end_section=True)
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
        ("climbed", clean(record.surrogate)),
        *(("transfer from", clean(source)) for source in record.sources),
        ("settings", f"precision {clean(record.precision)}, budget {clean(record.budget)}"),
    ]


def _verdict(record: EvaluationRecord) -> Text:
    return Text(verdict_text(record.verdict), style="green" if record.verdict.reliable else "bold red")


def _trust_rows(record: EvaluationRecord) -> list[tuple[str, str]]:
    """What the number means, what the audit left open, and who judged."""
    rows = [("reads as", strength(record))]
    if record.audit is not None:
        rows.append(("audit", audit_text(record)))
    if record.spread is not None:
        rows.append(("judge", judge_text(record.spread)))
        rows.append(("robust by seed", seeds_text(record.spread.robust)))
    return rows


def _remarks(record: EvaluationRecord) -> Text:
    """The verdict, and under it what the accuracies would hide: a sampled audit, a random judge, unseen attackers."""
    text = _verdict(record)
    if brief := audit_brief(record):
        text.append(f"\n{brief}", style="default")
    if record.spread is not None:
        text.append(f"\n{judge_text(record.spread)}", style="default")
    for row in column_rows(record):
        if row.group == "union":
            text.append(f"\n{row.name}: {percent(row.share)} {interval(*row.interval)}", style="default")
    return text


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
    return rows


def _survivor_rows(record: EvaluationRecord) -> list[tuple[str, str]]:
    if not record.attacks and record.columns:
        alone = sum(column.group != "union" for column in record.columns)
        return [("every attacker by itself", f"{count(alone, 'column')} below")]
    if not record.attacks:
        return [("no attack was run", f"{percent(record.clean_accuracy)} of {record.n}")]
    return [(clean(attack.name), _left(record, attack)) for attack in record.attacks]


def _left(record: EvaluationRecord, attack: AttackResult) -> str:
    """What an attack left; where it saw some of the survivors only, how many, and how many stand altogether."""
    if on_sample(record, attack):
        return f"tried on {attack.attacked} only, {attack.survivors} stand, {duration(attack.seconds)}"
    return f"{attack.survivors} of {attack.attacked} attacked, {duration(attack.seconds)}"


def _cost(record: EvaluationRecord) -> str:
    return f"{duration(record.seconds)}, {record.forwards:,} forwards, {record.backwards:,} backwards (images)"


__all__ = ["evaluation_table", "leaderboard_table", "ordered"]
