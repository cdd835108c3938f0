"""What a person sees while a job runs."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from rich.console import Console
from rich.logging import RichHandler
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Column

from deconfound.records import TrainingRecord


class Screen:
    """A ``Monitor`` that draws progress bars on standard error; results go to standard output.

    Args:
        quiet: show no progress and no remarks.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        self.errors = Console(stderr=True, highlight=False)
        self.output = Console(highlight=False)
        self.quiet = quiet
        self._progress: Progress | None = None
        self._task: TaskID | None = None

    def start(self, task: str, total: int, done: int = 0) -> None:
        """Show a bar."""
        self.finish()
        if self.quiet or not self.errors.is_terminal:
            return
        self._progress = Progress(
            TextColumn("{task.description}", table_column=Column(no_wrap=True, min_width=len(task))),
            BarColumn(bar_width=16),  # the first to give way on a narrow screen, the values' end the second
            TaskProgressColumn(table_column=Column(no_wrap=True, min_width=4)),
            TimeRemainingColumn(table_column=Column(no_wrap=True, min_width=7)),
            TextColumn("left", table_column=Column(no_wrap=True, min_width=4)),
            TextColumn("{task.fields[values]}"),
            console=self.errors,
            transient=True,
        )
        self._task = self._progress.add_task(task, total=total, completed=done, values="")
        self._progress.start()

    def update(self, done: int, values: Mapping[str, float]) -> None:
        """Move the bar."""
        if self._progress is not None and self._task is not None:
            text = " ".join(f"{name} {_shown(name, value)}" for name, value in values.items())
            self._progress.update(self._task, completed=done, values=text)

    def message(self, text: str) -> None:
        """A remark between bars."""
        if not self.quiet:
            self.errors.print(text, markup=False, soft_wrap=True)

    def finish(self) -> None:
        """Take the bar away."""
        if self._progress is not None:
            self._progress.stop()
        self._progress = self._task = None


def _shown(name: str, value: float) -> str:
    if name == "epoch":
        return f"{value:.0f}"
    if "accuracy" in name:
        return f"{value:.1%}"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


@contextmanager
def logged(screen: Screen) -> Iterator[None]:
    """Warnings of the library appear on the screen inside."""
    handler = RichHandler(console=screen.errors, show_time=False, show_path=False, markup=False)
    handler.setLevel(logging.ERROR if screen.quiet else logging.WARNING)
    logger = logging.getLogger("deconfound")
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


def trained_text(place: str, record: TrainingRecord) -> str:
    """One line on a finished training: where it lies, what was kept and on what it was built."""
    figures = ", ".join(f"{name.removeprefix('validation_')} {value:.1%}" for name, value in record.validation.items())
    used = ", ".join(f"{name} ({use.recipe}, {use.run or 'in memory'})" for name, use in record.stages.items())
    kept = f"kept epoch {record.selected_epoch + 1} of {record.epochs_run}" if record.selected_epoch is not None else ""
    return (
        f"{place}: {record.recipe['recipe']} on {record.data} ({record.recipe['family']} family), {kept}"
        f"{f', validation {figures}' if figures else ''}; {record.seconds:.0f} s, "
        f"{record.images_per_second:,.0f} images/s{f', built on {used}' if used else ''}. "
        f"Judge it: deconfound evaluate {place}"
    )
