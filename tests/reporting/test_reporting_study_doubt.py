"""What cannot be relied on is marked wherever it appears; means name their seeds, random judges their majority."""

from __future__ import annotations

import pytest

from deconfound.records import Accuracy
from deconfound.reporting import leaderboard_grid, study_grids
from study_records import DOUBT, column, mean, result, run, toy_study


@pytest.fixture
def record():
    return toy_study()


def test_an_unreliable_result_is_marked_in_every_table(record):
    """The unreliable one has an undeclared part, columns, a mean, a difference and a place in the ranking."""
    own = Accuracy(share=0.87, interval=(0.85, 0.89))
    columns = (column("pgd", 0.9), column("all of them", 0.9, group="union"))
    odd = run("old", 1, result(0.86, verdict=DOUBT, undeclared=own, columns=columns))
    marked = record.model_copy(update={"runs": (record.runs[0], odd, *record.runs[2:])})
    board, accuracies, differences, alone, _ = study_grids(marked)
    assert accuracies.rows[1][3:5] == ("87.0 % [85.0, 89.0] UNRELIABLE", "86.0 % [84.0, 88.0] UNRELIABLE")
    assert "UNRELIABLE" in accuracies.rows[2][4]
    assert "UNRELIABLE" in differences.rows[1][4]
    assert "UNRELIABLE" not in differences.rows[0][4]  # seed 0 is sound
    assert [heading for heading in alone.headings if "UNRELIABLE" in heading] == ["old, seed 1 UNRELIABLE"]
    assert "UNRELIABLE" in board.rows[0][-1]  # the control's
    assert board.remarks[0] == "old, seed 1: adaptive UNRELIABLE: the loss is | masked"


def test_a_leaderboard_of_some_speaks_of_them_and_their_controls_alone(record):
    other = run("other", 0, result(0.7, verdict=DOUBT))
    whole = record.model_copy(update={"runs": (*record.runs, other)})
    assert [row[0] for row in leaderboard_grid(whole, ["new"]).rows] == ["new"]
    (line,) = leaderboard_grid(whole, ["new"]).remarks
    assert line.startswith("old, seed 1")  # its control
    assert [row for row in leaderboard_grid(whole).rows if row[0] == "new"] == list(
        leaderboard_grid(whole, ["new"]).rows
    )
    line = leaderboard_grid(whole).remarks[0]
    assert line.startswith("old, seed 1; other, seed 0: adaptive UNRELIABLE")


def test_a_mean_names_its_seeds_where_they_are_not_the_rows(record):
    third = run("old", 2, result(0.9, judgement="x-500", question="x"))
    fewer = mean("old", (0.6, 0.5)).model_copy(update={"question": "x", "seeds": (1, 2), "n": 100})
    found = record.model_copy(update={"runs": (*record.runs, third), "means": (*record.means, fewer)})
    board, accuracies, *_ = study_grids(found)
    row = next(row for row in accuracies.rows if row[:2] == ("old", "mean of 0, 1"))
    assert row[-2] == "55.0 % ± 1.4 over seeds (seeds 1, 2)"
    old = next(row for row in board.rows if row[0] == "old")
    assert old[1] == "0, 1, 2"
    assert old[3] == "87.0 % ± 1.4 (seeds 0, 1) UNRELIABLE"
    assert board.remarks[-1].startswith("old, seed 1")  # all rows have adaptive for seeds 0 and 1
    later = found.model_copy(update={"runs": (*found.runs, run("new", 2, result(0.8)))})
    assert study_grids(later)[0].remarks[-1].startswith("rows are means over the seeds that they name")


def test_a_random_judges_columns_inside_the_threat_model_are_its_majority_and_not_its_accuracy(record):
    columns = (column("pgd", 0.5), column("all of them", 0.42, group="union"))
    drawn = run("old", 0, result(0.4, deviation=0.012, columns=columns))
    grids = study_grids(record.model_copy(update={"runs": (drawn, *record.runs[2:])}))
    board, accuracies, differences, alone, _ = grids
    assert accuracies.rows[0][4] == "40.0 % ± 1.2 [38.0, 42.0]"
    assert next(row for row in board.rows if row[0] == "old")[3] == "40.0 % [38.0, 42.0]"
    for grid in (differences, alone):
        assert grid.remarks[-1].startswith("of a random judge, examples count by the majority")
