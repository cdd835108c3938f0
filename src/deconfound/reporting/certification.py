"""A certification for the terminal: certified accuracy by L2 radius, with its conditions beside it."""

from __future__ import annotations

from rich import box
from rich.table import Table
from rich.text import Text

from deconfound.records import CertificationRecord
from deconfound.reporting.text import clean, count, duration, interval, machine_text, percent


def certification_table(record: CertificationRecord) -> Table:
    """Certified accuracies with 95 % intervals, abstentions, draws and level; all text is literal."""
    title = f"{clean(record.model)} ({clean(record.defence)})" if record.defence else clean(record.model)
    table = Table(title=Text(title), box=box.SIMPLE, show_header=False, title_justify="left")
    table.add_column("what", no_wrap=True, style="bold")
    table.add_column("value", overflow="fold")
    table.add_row("data", Text(f"{clean(record.data)}, {count(len(record.class_names), 'class', 'classes')}"))
    table.add_row("noise", Text(f"sigma {record.sigma:g}, L2 radii in [0, 1] pixels"))
    draws = f"{record.selection_draws:,} choose the class, {record.draws:,} bound its share"
    draws += f" (no radius above {record.largest_radius:.4g})"
    table.add_row("draws", Text(draws))
    table.add_row("level", Text(f"each certificate is wrong with probability at most {record.alpha:g}"))
    table.add_row("n, seed", Text(f"n {record.n}, seed {record.seed}"))
    table.add_section()
    for share in record.certified:
        value = f"{percent(share.accuracy)} {interval(*share.interval)}"
        table.add_row(f"certified at {share.radius:.4g}", Text(value))
    table.add_row("abstained", Text(f"{record.abstained} of {record.n}"))
    table.add_row("mean radius", Text(f"{record.mean_radius:.4g} (0 where wrong or abstaining)"))
    for note in record.notes:
        table.add_row("note", Text(clean(note)))
    table.add_section()
    table.add_row("cost", Text(f"{duration(record.seconds)}, {record.forwards:,} forwards (images)"))
    table.add_row("machine", Text(machine_text(record.machine)))
    return table


__all__ = ["certification_table"]
