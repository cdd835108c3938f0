"""What a person sees while a job runs, on a terminal and on none."""

from __future__ import annotations

import io
import logging
import re

import pytest
from rich.console import Console

from deconfound.cli.screen import Screen, logged
from deconfound.recipes.training import train

VALUES = {"epoch": 3.0, "loss": 2.3026, "accuracy": 0.5012, "images/s": 12345.6}


def screen(width=100, *, terminal=True, quiet=False):
    found = Screen(quiet=quiet)
    found.errors = Console(file=io.StringIO(), force_terminal=terminal, width=width, color_system=None, highlight=False)
    return found


def frames(found):
    """What stood on the terminal's line, one after another, without control codes."""
    text = re.sub(r"\x1b\[[?0-9;]*[a-zA-Z]", "", found.errors.file.getvalue())
    return [frame.rstrip() for frame in re.split(r"[\r\n]", text) if frame.strip()]


@pytest.mark.parametrize("width", [80, 100, 200])
def test_the_bar_shows_epoch_loss_accuracy_speed_and_time_left(width):
    found = screen(width)
    found.start("training", 640, 20)
    found.update(320, VALUES)
    found._progress.refresh()
    found.finish()
    last = frames(found)[-1]
    assert last.startswith("training ")
    assert re.search(r" 50% \S+ left epoch 3 loss 2.3 accuracy 50.1% images/s 12,346$", last)
    assert len(last) <= width
    assert width == 80 or "━" in last


def test_the_time_left_is_a_time(monkeypatch):
    found = screen()
    clock = iter(range(1000))
    found.start("training", 100)
    found._progress.get_time = lambda: float(next(clock))
    for done in (10, 20, 30):
        found.update(done, VALUES)
    found._progress.refresh()
    found.finish()
    assert re.search(r" \d:\d\d:\d\d left ", frames(found)[-1])


def test_a_narrow_terminal_keeps_what_matters():
    found = screen(60)
    found.start("pgd-20x2", 640)
    found.update(320, VALUES)
    found._progress.refresh()
    found.finish()
    assert re.match(r"pgd-20x2 +50% \S+ left epoch 3 loss 2.3", frames(found)[-1])


def test_the_bar_goes_away():
    found = screen()
    found.start("training", 10)
    found.finish()
    assert found.errors.file.getvalue().rstrip().endswith("\x1b[2K")
    found.finish()  # twice is harmless
    found.update(3, VALUES)  # so is a late word


def test_a_second_bar_replaces_the_first():
    found = screen()
    found.start("clean images", 10)
    found.start("pgd", 10)
    found.finish()
    assert any(frame.startswith("pgd") for frame in frames(found))


@pytest.mark.parametrize("arguments", [{"terminal": False}, {"quiet": True}])
def test_no_bar_without_a_terminal_or_when_quiet(arguments):
    found = screen(**arguments)
    found.start("training", 640)
    found.update(33, VALUES)
    found.finish()
    assert found.errors.file.getvalue() == ""


def test_remarks_and_warnings():
    loud, silent = screen(), screen(quiet=True)
    for found in (loud, silent):
        found.message("a [bold]remark[/bold]")
        with logged(found):
            logging.getLogger("deconfound.store").warning("damaged [x]")
            logging.getLogger("elsewhere").warning("not ours")
        logging.getLogger("deconfound.store").warning("too late")
    assert frames(loud) == ["a [bold]remark[/bold]", "WARNING  damaged [x]"]
    assert frames(silent) == []


def test_a_real_training_fills_the_bar(monkeypatch):
    monkeypatch.setattr("deconfound.training.loop.TELL_EVERY", 0)
    found = screen(120)
    updates = []
    shown = found.update
    monkeypatch.setattr(found, "update", lambda done, values: (updates.append(done), shown(done, values)))
    train("standard", changes={"epochs": 2}, monitor=found)
    assert updates == list(range(1, 41))
    assert re.search(r"training .*% \S+ left epoch [12] loss \S+ accuracy \S+% images/s \S+", frames(found)[-1])
