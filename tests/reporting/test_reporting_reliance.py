"""Causal reliance: table, CSV, figure, the part of the page, and several runs side by side."""

from __future__ import annotations

import csv
import math
import re
from xml.etree import ElementTree

import pytest

from analysis_records import intervention, make_reliance, reliance_point, share
from deconfound.errors import InputError
from deconfound.records import Accuracy, RelianceRecord
from deconfound.reporting.analyses import analysis_files, analysis_table
from deconfound.reporting.page import render
from deconfound.reporting.reliance import reliance_csv, side_by_side_table
from pages import EVIL, Page, printed

SWEEP = (0.1, 0.5, 0.9, 0.99)


def articles(source):
    return re.findall(r'<article id="analysis-.*?</article>', source, re.S)


def test_the_page_says_every_number_with_its_interval(evaluations):
    source = render(evaluations[:1], analyses=[make_reliance(), make_reliance(seed=8, rhos=SWEEP)])
    page = Page(source)
    assert page.open == []
    together, first, second = articles(source)
    words = Page(first).text
    for part in (
        "Causal reliance: small (pgd-at), seed 7",
        "digits+tint:rho=0.9[test] (10 classes), one prediction an image, n = 360, seed 7",
        "Reliance 40.0 % [35.0, 45.0] at rho 0.9",
        "as observed 0.9 90.0 % [85.0, 95.0]",
        "do(confounder = random) 0.9 60.0 % [55.0, 65.0] +30.0 [+20.0, +40.0] 30.0 % [25.0, 35.0]",
        "do(shape = other)",
        "a note",
    ):
        assert part in words.replace("\xa0", " "), part
    assert "do(confounder = other) 50.0 % [45.0, 55.0]" in first  # in the drawing's words
    assert "rho 0.1:" in second
    table = Page(together).text
    assert "2 analyses side by side" in table
    assert "rho 0.1 rho 0.5 rho 0.9 rho 0.99" in table
    assert table.count("40.0 %*") == 2
    assert "90.0 % → 60.0 %" in table


def test_abstentions_and_what_they_leave_open_are_said(evaluations):
    done = intervention(compared=200, bounds=(0.2, 0.7), abstained=share(0.3))
    point = reliance_point().model_copy(update={"interventions": (done,), "abstained": share(0.25)})
    record = make_reliance(points=(point,))
    said = (
        "Without a prediction, which counts as an error, at rho 0.9: 25.0 % [20.0, 30.0] as observed and 30.0 %"
        " [25.0, 35.0] do(confounder = other). Changes are of the images predicted in both arms; of all images they"
        " would be in [20.0, 70.0] do(confounder = other) (n = 200), whatever the others did."
    )
    assert said in " ".join(printed(analysis_table(record)).split())
    assert said in Page(render(evaluations[:1], analyses=[record])).text.replace("\xa0", " ")
    rows = list(csv.DictReader(reliance_csv(record).splitlines()))
    assert [row["abstained"] for row in rows] == ["0.25", "0.3"]
    assert (rows[1]["compared"], rows[1]["changed_least"], rows[1]["changed_most"]) == ("200", "0.2", "0.7")
    assert RelianceRecord.from_json(record.to_json()) == record
    assert "Without a prediction" not in printed(analysis_table(make_reliance()))


def test_what_carries_the_confounder_is_said(evaluations):
    record = make_reliance(mark="a texture of 4x4 pixels")
    assert "Confounder: a texture of 4x4 pixels." in printed(analysis_table(record))
    assert "Confounder a texture of 4x4 pixels" in Page(render(evaluations[:1], analyses=[record])).text
    assert "Confounder:" not in printed(analysis_table(make_reliance()))
    assert RelianceRecord.from_json(record.to_json()) == record


def test_one_alone_has_no_table_in_common(evaluations):
    assert len(articles(render(evaluations[:1], analyses=[make_reliance()]))) == 1


def test_markup_stays_text(evaluations):
    point = reliance_point().model_copy(update={"interventions": (intervention(EVIL, EVIL),)})
    fields = dict.fromkeys(("model", "model_digest", "defence", "data", "data_digest"), EVIL)
    evil = make_reliance(points=(point,), class_names=(EVIL,), judge={"draws": EVIL}, notes=(EVIL,), **fields)
    source = render(evaluations[:1], analyses=[evil, evil.model_copy(update={"seed": 9})])
    page = Page(source)
    assert page.open == []
    assert len(page.all("script")) == 1
    assert "<script>alert" not in source
    assert not [name for _, attributes in page.elements for name in attributes if name.startswith("on")]
    printed(analysis_table(evil))
    analysis_files(evil)


@pytest.mark.parametrize("rhos", [(0.9,), SWEEP, (None,)])
def test_the_table_fits_the_screen(rhos):
    text = printed(analysis_table(make_reliance(rhos, unsteady=share(0.1), judge={"draws": 9})))
    assert max(map(len, text.splitlines())) <= 80
    words = " ".join(text.split())
    for part in ("majority of 9", "reliance 40.0 % [35.0, 45.0]", "do(confounder = other)", "Note: a note",
                 "10.0 % [5.0, 15.0] of predictions change on the same image"):  # fmt: skip
        assert part in words, part


def test_models_by_rho_on_the_screen():
    text = printed(side_by_side_table([make_reliance((0.1, 0.9)), make_reliance((0.9,), model="other")]))
    assert max(map(len, text.splitlines())) <= 80
    assert "rho 0.1" in text
    assert text.count("40.0 %*") == 2
    assert text.count("40.0 %") == 3


def test_files_are_what_they_are_called():
    for record in (make_reliance((None,)), make_reliance(SWEEP)):
        files = analysis_files(record)
        assert set(files) == {"reliance.csv", "reliance.svg"}
        assert ElementTree.fromstring(files["reliance.svg"]).tag.endswith("svg")
        assert sum(map(len, files.values())) < 100_000


def test_csv_has_full_precision_and_no_formulas():
    record = make_reliance(SWEEP, model="=1+1", points=(reliance_point(1 / 3),))
    rows = list(csv.DictReader(reliance_csv(record).splitlines()))
    assert [row["do"] for row in rows] == ["as observed", "confounder=random", "confounder=other", "shape=other"]
    assert {row["rho"] for row in rows} == {str(1 / 3)}
    assert {row["model"] for row in rows} == {"'=1+1"}
    assert rows[0]["gap"] == rows[0]["changed"] == ""
    assert float(rows[1]["gap"]) == record.points[0].interventions[0].gap


def test_odd_records_are_drawn(evaluations):
    nan = Accuracy(share=math.nan, interval=(math.nan, math.nan))
    point = reliance_point().model_copy(update={"observed": nan, "interventions": (intervention("shape", "other"),)})
    record = make_reliance(points=(point, point.model_copy(update={"rho": 0.5, "own": False})), class_names=("one",))
    assert record.own.reliance is None
    assert "n/a" in printed(analysis_table(record))
    assert Page(render(evaluations[:1], analyses=[record, make_reliance()])).open == []
    analysis_files(record)


def test_it_survives_json_and_a_newer_one_is_refused(tmp_path):
    record = make_reliance(SWEEP, unsteady=share(0.1))
    assert RelianceRecord.from_json(record.to_json()) == record
    with pytest.raises(InputError, match="schema_version: got 99; expected at most 1; update deconfound"):
        RelianceRecord.from_json(record.model_copy(update={"schema_version": 99}).to_json())
    with pytest.raises(InputError, match="points"):
        RelianceRecord.from_json(make_reliance().model_copy(update={"points": ()}).to_json())
