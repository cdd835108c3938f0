"""Studies in words: every accuracy with what must be known of it, means with their spread, doubts beside them."""

from __future__ import annotations

import csv
import io
import json

import pytest
from rich.console import Console

from deconfound.errors import InputError
from deconfound.records import (
    StudyAnalysis,
    StudyFigure,
    StudyRecord,
)
from deconfound.reporting import (
    analyses_csv,
    csv_table,
    leaderboard_grid,
    markdown_table,
    render,
    study_figure,
    study_grids,
    study_view,
    svg,
)
from study_records import DOUBT, MACHINE, column, result, run, toy_study


@pytest.fixture
def record():
    return toy_study()


def test_every_accuracy_has_its_context(record):
    _, accuracies, *_ = study_grids(record)
    assert accuracies.caption == "Accuracy with 95 % Wilson intervals: toy, linf 0.3, n 500, attack seed 0"
    assert accuracies.headings == (
        "method", "seed", "clean", "adaptive without declared attacks", "adaptive", "unseen", "verdict"
    )  # fmt: skip
    assert {len(row) for row in accuracies.rows} == {7}
    assert accuracies.rows[0] == (
        "old", "0", "98.0 % [97.0, 99.0] (n 500)", "88.0 % [86.0, 90.0]", "88.0 % [86.0, 90.0]", "", "reliable"
    )  # fmt: skip
    assert accuracies.rows[3][3:6] == (
        "92.0 % [90.0, 94.0]", "90.0 % [88.0, 92.0]",
        "50.0 % [48.0, 52.0]; all columns together 40.0 % [36.0, 44.0]",
    )  # fmt: skip


def test_what_cannot_be_relied_on_says_so_in_the_row_and_why_below(record):
    _, accuracies, *_ = study_grids(record)
    assert accuracies.rows[1][4] == "86.0 % [84.0, 88.0] UNRELIABLE"
    assert accuracies.rows[1][-1] == "UNRELIABLE"
    assert accuracies.remarks == (
        "old, seed 1: adaptive UNRELIABLE: the loss is | masked", "not done: new-2: training left"
    )  # fmt: skip


def test_facts_that_differ_stand_in_the_cells(record):
    other = run("old", 2, result(0.8, n=100, deviation=0.012))
    _, accuracies, *_ = study_grids(record.model_copy(update={"runs": (*record.runs, other)}))
    assert ", n 500" not in accuracies.caption
    row = next(row for row in accuracies.rows if row[1] == "2")
    assert row[4] == "80.0 % ± 1.2 [78.0, 82.0] (n 100)"


def test_the_leaderboard_has_a_row_for_each_method_reliable_and_robust_first(record):
    board = leaderboard_grid(record)
    assert board.caption == "Leaderboard of toy by adaptive; n 500 for adaptive and n 500 for unseen"
    assert board.headings == ("method", "seeds", "clean", "adaptive", "unseen", "against its control, adaptive")
    new, old = board.rows
    assert new == (
        "new", "0, 1", "98.0 % ± 0.0", "89.0 % ± 1.4", "40.0 % [36.0, 44.0] (seed 0)",  # what all columns left
        "+3.0 ± 1.4 to old, p 0.043, 0.043 UNRELIABLE",
    )  # fmt: skip
    assert old[3:] == ("87.0 % ± 1.4 UNRELIABLE", "", "")
    best = run("best", 0, result(0.99, verdict=DOUBT))
    ranked = leaderboard_grid(record.model_copy(update={"runs": (best, *record.runs, run("idle", 0))})).rows
    assert [row[0] for row in ranked] == ["new", "best", "old"]


def test_the_picture_has_every_seed_and_what_is_in_doubt(record):
    drawn = svg(study_figure(record), "study", "title", "about")
    assert drawn == svg(study_figure(record), "study", "title", "about")
    assert all(word in drawn for word in ("new", "old", "clean accuracy", "unreliable", "accuracy left by adaptive"))
    sure = record.model_copy(update={"runs": tuple(one for one in record.runs if one.name == "new")})
    assert "unreliable" not in svg(study_figure(sure))
    with pytest.raises(InputError, match="at least one judged run"):
        study_figure(record.model_copy(update={"runs": ()}))


def test_means_follow_all_their_values(record):
    _, accuracies, *_ = study_grids(record)
    assert [row[:2] for row in accuracies.rows] == [
        ("old", "0"), ("old", "1"), ("old", "mean of 0, 1"), ("new", "0"), ("new", "1"), ("new", "mean of 0, 1")
    ]  # fmt: skip
    assert accuracies.rows[2][4:] == ("87.0 % ± 1.4 over seeds UNRELIABLE", "", "UNRELIABLE")
    assert accuracies.rows[5][4:] == ("89.0 % ± 1.4 over seeds", "", "reliable")


def test_differences_seed_by_seed_and_over_seeds(record):
    _, _, differences, _ = study_grids(record)
    assert differences.caption.endswith("on the same images; Holm over 2 of adaptive")
    assert differences.rows == (
        ("new - old", "adaptive", "0", "500", "+2.0 [-1.0, +5.0]", "0.021", "0.043"),
        ("new - old", "adaptive", "1", "500", "+4.0 [+1.0, +7.0] † UNRELIABLE", "0.021", "0.043"),
        ("new - old", "adaptive", "mean of 0, 1", "", "+3.0 ± 1.4 over seeds UNRELIABLE", "", ""),
    )
    assert differences.remarks[0].startswith("† the two met different attacks")
    assert differences.remarks[1].startswith("UNRELIABLE: so is the robust accuracy of one of the two")
    assert len(differences.remarks) == 2  # no random judge


def test_markdown_has_a_cell_for_every_heading(record):
    text = markdown_table(record)
    for part in text.split("\n\n"):
        lines = [line for line in part.splitlines() if line.startswith("|")]
        assert len({line.count("|") - line.count("\\|") for line in lines}) <= 1
    assert "the loss is | masked." in text  # outside the table a bar is a bar
    assert text.endswith("|\n")
    assert "| old | 0 |" in text


def test_a_study_without_controls_is_one_table(record):
    alone = record.model_copy(update={"tests": (), "differences": ()})
    assert len(study_grids(alone)) == 2  # and what one attacker beyond the threat model left


def test_attackers_by_themselves_stand_side_by_side(record):
    asked = {"question": "adaptive-separate", "judgement": "adaptive-separate-100", "n": 100}
    union = column("all of them", 0.2, "union")
    few = result(0.4, **asked, columns=(column("apgd-ce", 0.41), column("own|one", 0.4), union))
    many = [column("apgd-ce", 0.61), column("square", 0.7), column("transfer from x-0", 0.8, "transfer"), union]
    looks = asked | {"judgement": "adaptive-separate-loops1-100"}
    more = result(0.2, **looks, columns=(*many, column("blur", 0.9, "beyond")))
    runs = (run("old", 0, few), run("new", 0, more), run("new", 1, result(0.5)))
    grid = study_grids(record.model_copy(update={"runs": runs, "tests": ()}))[1]
    assert grid.headings == ("attacker", "old", "new, seed 0")
    assert grid.rows == (
        ("clean", "98.0 %", "98.0 %"),
        ("apgd-ce", "41.0 %", "61.0 %"),
        ("square", "-", "70.0 %"),
        ("transfer from x-0", "-", "80.0 %"),
        ("own|one", "40.0 %", "-"),
        ("all together", "20.0 %", "20.0 %"),
    )
    assert "n 100; no 95 % interval of these is wider than 10.0 points" in grid.caption
    assert grid.remarks == ("adaptive-separate-100: old", "adaptive-separate-loops1-100: new")
    assert "| own\\|one | 40.0 % | - |" in grid.markdown()


def test_a_union_alone_is_no_table_of_attackers(record):
    runs = tuple(
        one.model_copy(
            update={
                "results": tuple(
                    result.model_copy(update={"columns": tuple(c for c in result.columns if c.group == "union")})
                    for result in one.results
                )
            }
        )
        for one in record.runs
    )
    alone = record.model_copy(update={"runs": runs})
    assert len(study_grids(alone)) == 3  # that of the suite unseen stands beside its accuracy


def test_rows_of_numbers(record):
    rows = list(csv.DictReader(io.StringIO(csv_table(record))))
    assert len(rows) == 7  # five results and two columns
    first, new = rows[0], rows[2]
    assert (first["method"], first["robust"], first["eps"], first["difference"]) == ("old", "0.88", "0.3", "")
    assert (new["undeclared"], new["difference"], new["p_holm"], new["paired_n"]) == ("0.92", "0.02", "0.043", "500")
    assert (rows[1]["reliable"], rows[1]["reasons"]) == ("no", "the loss is | masked")
    assert (rows[5]["column"], rows[5]["robust"], rows[5]["clean"]) == ("all of them", "0.4", "")


def test_on_the_screen_and_on_the_page(record, make):
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(study_view(record))
    shown = console.export_text()
    assert "88.0 % [86.0, 90.0]" in shown
    assert "not done: new-2: training left" in shown
    page = render([make["evaluation"]()], study=record.model_copy(update={"about": "<b>Bold</b>"}))
    assert "&lt;b&gt;Bold" in page
    assert 'href="#study"' in page
    assert "mean of 0, 1" in page
    assert 'href="#study"' not in render([make["evaluation"]()])


def found(kind, *figures, n=40):
    return StudyAnalysis(
        analysis=f"analyze-{kind}", about=kind, n=n, seed=1, figures=figures, notes=("a <note>",), seconds=1.0,
        digests={"model": "m", "data": "d"}, machine=MACHINE,
    )  # fmt: skip


def with_analyses(record):
    share = StudyFigure(name="observed", at="rho 0.5", value=0.8, interval=(0.7, 0.9), share=True)
    gap = StudyFigure(name="gap under do(shape = other)", at="rho 0.5", value=0.2, share=True)
    reliance = StudyFigure(name="reliance", at="rho 0.9 (own)", value=0.25, interval=(0.2, 0.3), share=True)
    numbers = [StudyFigure(name="Adv", value=0.5, share=True), StudyFigure(name="|g(Z) - Z|", value=7.26123)]
    old, _, new, *others = record.runs
    runs = (
        old.model_copy(update={"analyses": (found("reliance", reliance, share, gap),)}),
        new.model_copy(update={"analyses": (found("reliance", share), found("effects", *numbers, n=30))}),
        *others,
    )
    return record.model_copy(update={"runs": runs})


def test_what_analyses_found_has_a_table_for_each(record):
    reliance, effects = study_grids(with_analyses(record))[4:]
    assert reliance.caption.startswith("Causal reliance: ")
    assert reliance.caption.endswith("; n 40, seed 1, 95 % intervals")
    assert reliance.headings == ("method", "seed", "at", "observed", "reliance")
    assert reliance.rows == (
        ("old", "0", "rho 0.9 (own)", "", "25.0 % [20.0, 30.0]"),
        ("old", "0", "rho 0.5", "80.0 % [70.0, 90.0]", ""),
        ("new", "0", "rho 0.5", "80.0 % [70.0, 90.0]", ""),
    )  # fmt: skip
    assert reliance.remarks == ("a <note>",)
    assert effects.headings == ("method", "seed", "Adv", "|g(Z) - Z|")
    assert effects.rows == (("new", "0", "50.0 %", "7.261"),)


def test_several_seeds_have_their_mean_below(record):
    def seen(at, value, name="observed", share=True):
        return StudyFigure(name=name, at=at, value=value, share=share)

    first = found("reliance", seen("a", 0.8), seen("b", 0.5), seen("a", 0.2, "p", False))
    second = found("reliance", seen("a", 0.6), seen("a", 0.4, "p", False), seen("a", 2.0, "unsteady", False))
    third = found("reliance", seen("a", 0.7), seen("a", 4.0, "unsteady", False))
    run = next(one for one in record.runs if one.results)
    runs = [run.model_copy(update={"seed": n, "analyses": (one,)}) for n, one in enumerate((first, second, third))]
    rows = study_grids(record.model_copy(update={"runs": tuple(runs)}))[-1].rows
    assert [row[1:3] for row in rows] == [("0", "a"), ("0", "b"), ("1", "a"), ("2", "a"), ("mean", "a")]
    assert rows[-1][3:] == ("70.0 % ± 10.0", "")


def test_the_numbers_of_analyses_are_all_in_one_table(record):
    rows = list(csv.DictReader(io.StringIO(analyses_csv(with_analyses(record)))))
    assert [(row["method"], row["kind"], row["at"], row["figure"], row["value"]) for row in rows] == [
        ("old", "reliance", "rho 0.9 (own)", "reliance", "0.25"),
        ("old", "reliance", "rho 0.5", "observed", "0.8"),
        ("old", "reliance", "rho 0.5", "gap under do(shape = other)", "0.2"),
        ("new", "reliance", "rho 0.5", "observed", "0.8"),
        ("new", "effects", "", "Adv", "0.5"),
        ("new", "effects", "", "|g(Z) - Z|", "7.26123"),
    ]  # fmt: skip
    assert (rows[0]["low"], rows[0]["high"], rows[2]["low"], rows[0]["control"]) == ("0.2", "0.3", "", "")
    assert rows[3]["control"] == "old"


def test_records_without_analyses_are_read_as_they_are(record):
    """Studies that were recorded before analyses were part of them."""
    plain = json.loads(record.to_json())
    for run_of_it in plain["runs"]:
        del run_of_it["analyses"]
    assert StudyRecord.from_json(json.dumps(plain)) == record
