"""Attackers beyond the threat model in the tables of a study: accuracies, and a method minus its control."""

from __future__ import annotations

import csv
import io

import pytest

from deconfound.records import PairedTest, StudyExamples
from deconfound.records.beyond import CORRUPTIONS, beyond, left_by
from deconfound.records.examples import packed_bits
from deconfound.reporting import csv_table, study_grids
from deconfound.reporting.study_beyond import beyond_grids
from study_records import DOUBT, against, column, result, run, toy_study

ASKED = {"question": "unseen", "judgement": "unseen-500", "suite": "unseen"}


@pytest.fixture
def record():
    """Two methods whose attackers differ by one, and two tests of them."""
    columns = [column("l2", 0.4, "norm"), column("blur-3", 0.9, "beyond"), column(CORRUPTIONS, 0.3, "beyond")]
    own = column("own|one", 0.2, "beyond")
    runs = (
        run("old", 0, result(0.5, **ASKED, columns=(*columns, column("apgd", 0.6)))),
        run("new", 0, result(0.5, **ASKED, columns=(*columns, own)), control="old"),
    )
    tests = (_tested("l2", 0.02), _tested(CORRUPTIONS, 0.1))
    return toy_study().model_copy(update={"runs": runs, "by_attacker": tests})


def _tested(attacker, difference, **changes):
    test = against(0, difference).model_copy(update={"question": "unseen", "attacker": attacker})
    return test.model_copy(update=changes)


def test_one_row_for_each_run_and_one_for_each_pair(record):
    left, minus = beyond_grids(record)
    assert left.headings == ("method", "seed", "clean", "l2", CORRUPTIONS, "own|one")
    assert left.rows == (
        ("old", "0", "98.0 %", "40.0 %", "30.0 %", "-"),
        ("new", "0", "98.0 %", "40.0 %", "30.0 %", "20.0 %"),
    )
    assert left.caption.endswith("unseen, n 500; no 95 % interval of these is wider than 10.0 points")
    assert left.remarks == ("corruptions: right under every kind of them at every severity",)
    assert minus.headings == ("method - control", "seed", "n", "l2", CORRUPTIONS)
    assert minus.rows == (
        ("new - old", "0", "500", "+2.0 [-1.0, +5.0], p 0.043", "+10.0 [+7.0, +13.0], p 0.043"),
    )  # fmt: skip
    assert minus.caption.endswith("McNemar's p after Holm over 2 tests")
    assert minus.remarks == ()
    tables = study_grids(record)
    assert all(grid in tables for grid in (left, minus))


def test_other_attacks_and_doubts_are_marked(record):
    apart = PairedTest(first="new-0", second="old-0", not_compared="they met other radii")
    tests = (_tested("l2", 0.02, same_attacks=False), _tested(CORRUPTIONS, 0.1, same_attacks=False, test=apart))
    old, new = record.runs
    doubted = old.model_copy(update={"results": (old.results[0].model_copy(update={"verdict": DOUBT}),)})
    left, minus = beyond_grids(record.model_copy(update={"runs": (doubted, new), "by_attacker": tests}))
    assert left.rows[0][3] == "40.0 % UNRELIABLE"
    assert left.rows[1][3] == "40.0 %"
    (row,) = minus.rows
    assert row[0] == "new - old †"
    assert row[3:] == ("+2.0 [-1.0, +5.0], p 0.043 UNRELIABLE", "- UNRELIABLE")
    assert minus.caption.endswith("over 1 tests")
    assert [remark[:10] for remark in minus.remarks] == ["† the two ", "UNRELIABLE"]


def test_without_tests_there_are_accuracies(record):
    (left,) = beyond_grids(record.model_copy(update={"by_attacker": ()}))
    assert len(left.rows) == 2
    assert beyond_grids(record.model_copy(update={"runs": ()})) == []


def test_rows_of_numbers_have_the_tests(record):
    rows = list(csv.DictReader(io.StringIO(csv_table(record))))
    found = {(row["method"], row["column"]): row["difference"] for row in rows}
    assert found[("new", "l2")] == "0.02"
    assert found[("new", CORRUPTIONS)] == "0.1"
    assert found[("new", "own|one")] == found[("old", "l2")] == found[("new", "")] == ""


def test_what_an_attacker_left_of_each_example():
    stood = {0: (True, True), 3: (True, False), 7: (False, False)}
    bits = column("l2", 1 / 3, "norm").model_copy(update={"stands": packed_bits([True, False, False])})
    silent = column("l1", 1 / 3, "norm")
    digests = {"model": "m", "data": "d", "attacks": "a"}
    shown = result(0.5, n=3, columns=(bits, silent), examples=StudyExamples.packed(stood), digests=digests)
    first, second = beyond(shown)
    assert left_by(first, shown) == stood
    assert (second.name, left_by(second, shown)) == ("l1", {})
    assert left_by(first, shown.model_copy(update={"examples": None})) == {}
