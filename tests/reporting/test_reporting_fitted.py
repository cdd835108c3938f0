"""Grids on narrow screens: no word is broken, every cell is shown, every part says what its rows are of."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from deconfound.records import StudyRecord
from deconfound.reporting.fitted import Fitted
from deconfound.reporting.grid import Grid
from deconfound.reporting.study import study_view
from study_records import toy_study

WIDE = Grid(
    caption="Ten attackers",
    headings=("method", "seed", *(f"attacker-{i}" for i in range(10))),
    rows=tuple((name, "0", *(f"{name}/{i}" for i in range(10))) for name in ("pgd-at", "trades")),
    remarks=("a remark",),
)


def shown(what, width):
    console = Console(width=width, force_terminal=False)
    with console.capture() as caught:
        console.print(what)
    return caught.get()


@pytest.mark.parametrize("width", [40, 80, 100, 300])
def test_every_cell_is_shown_whole(width):
    text = shown(Fitted(WIDE), width)
    assert max(map(len, text.splitlines())) <= width
    for word in {word for row in (WIDE.headings, *WIDE.rows) for word in row}:
        assert word in text.split()
    assert text.count("a remark") == 1


WORDS = st.lists(st.text("ab-", min_size=1, max_size=14), max_size=6).map(" ".join)


@given(st.lists(st.tuples(*[WORDS] * 5), min_size=1, max_size=4), st.integers(44, 90))
def test_no_word_is_broken(rows, width):
    """Rich would shrink a column of long words for one of many short ones."""
    grid = Grid("c", ("method", *(f"column-{i}" for i in range(4))), tuple(rows))
    words = set(shown(Fitted(grid), width).split())
    assert {word for row in (grid.headings, *rows) for cell in row for word in cell.split()} <= words


def test_a_part_says_what_its_rows_are_of():
    parts = shown(Fitted(WIDE), 80).split("Ten attackers ")[1:]
    assert [part.splitlines()[0].strip() for part in parts] == ["(1 of 3)", "(2 of 3)", "(3 of 3)"]
    assert all({"method", "seed", "pgd-at", "trades"} <= set(part.split()) for part in parts)


def test_one_table_where_there_is_room():
    assert "(1 of" not in shown(Fitted(WIDE), 300)


def test_a_screen_on_which_nothing_fits():
    """Words are folded then, and every column still comes."""
    text = shown(Fitted(WIDE), 12)
    assert "(10 of 10)" in " ".join(text.split())


def test_only_columns_that_say_what_rows_are_of():
    grid = Grid(caption="c", headings=("method", "seed"), rows=(("a", "0"),))
    assert {"a", "0"} <= set(shown(Fitted(grid), 80).split())


def test_a_study_without_runs_has_no_broken_table():
    record = toy_study()
    assert "method" in shown(study_view(record), 60)
    empty = StudyRecord(study="s", definition={}, runs=(), machine=record.machine)
    assert isinstance(shown(study_view(empty), 60), str)
