"""Causal effects: table, CSV, drawing and the part of the page."""

from __future__ import annotations

import csv
import json
import math
from xml.etree import ElementTree

import pytest

from analysis_records import attacked, make_effects
from deconfound.errors import InputError
from deconfound.recipes.study_analyses import Analysis
from deconfound.recipes.study_figures import analysis_result
from deconfound.records import EffectsRecord, Mean
from deconfound.reporting.analyses import analysis_files
from deconfound.reporting.effects import effects_csv
from deconfound.reporting.page import render
from pages import EVIL, Page, printed_analysis


def test_the_page_says_every_number(evaluations):
    page = Page(render(evaluations[:1], analyses=[make_effects(), make_effects(seed=8)]))
    assert page.open == []
    words = page.text.replace("\xa0", " ")
    for part in (
        "Causal effects: small (pgd-at), seed 7",
        "linf 0.1, pgd-20, n = 360, seed 7",
        "J (log_product) = 0.051; |g(Z) - Z| = 7.260 [7.210, 7.320]; mean (g(Z) - Z)², which lambda weighs, = 0.103",
        "counterfactual causal, F + h(g(Z)) 90.0 % [85.0, 95.0] 0.500",
        "defence 0.6 [0.3, 0.9] 0.6 [0.3, 0.9] 513.3 [389.9, 636.7]",
    ):
        assert part in words, part


def test_every_attack_has_a_row(evaluations):
    record = make_effects(others=(attacked("fgsm", 0.75), attacked("cw-20", 0.4)))
    assert [one.attack.name for one in record.attacks] == ["pgd-20", "fgsm", "cw-20"]
    assert EffectsRecord.from_json(record.to_json()) == record
    text = printed_analysis(record)
    assert max(map(len, text.splitlines())) <= 80
    rows = [line.split() for line in text.splitlines()]
    assert ["fgsm", "75.0", "%", *["90.0", "%"] * 3] in rows
    assert ["cw-20", "40.0", "%", *["90.0", "%"] * 3] in rows
    page = Page(render(evaluations[:1], analyses=[record]))
    assert page.open == []
    assert "cw-20 40.0 % [35.0, 45.0] 90.0 %" in page.text.replace("\xa0", " ")
    assert "pgd-20, fgsm and cw-20, n = 360" in page.text.replace("\xa0", " ")
    lines = list(csv.DictReader(effects_csv(record).splitlines()))
    assert [row["attack"] for row in lines] == ["pgd-20"] * 4 + ["fgsm"] * 4 + ["cw-20"] * 4 + ["pgd-20"] * 2
    assert [row["accuracy"] for row in lines[::4][:3]] == ["0.9", "0.75", "0.4"]
    found = {(one.at, one.name): one.value for one in analysis_result(Analysis(kind="effects"), record).figures}
    assert (found["", "Adv"], found["fgsm", "Adv"], found["cw-20", "Adv"]) == (0.9, 0.75, 0.4)
    assert "Accuracy by attack" not in printed_analysis(make_effects())


def test_another_game_is_named(evaluations):
    record = make_effects(moment_name="class_residual", penalty_name="size", moment=-0.009)
    said = "J (class_residual) = -0.009; |g(Z) - Z| = 7.260 [7.210, 7.320]; mean g(Z)², which lambda weighs, = 0.103"
    assert said in " ".join(printed_analysis(record).split())
    assert said in Page(render(evaluations[:1], analyses=[record])).text.replace("\xa0", " ")
    names = [one.name for one in analysis_result(Analysis(kind="effects"), record).figures]
    assert {"J (class_residual)", "mean g(Z)^2"} < set(names)
    without = {key: value for key, value in json.loads(make_effects().to_json()).items() if not key.endswith("_name")}
    assert EffectsRecord.from_json(json.dumps(without)) == make_effects()  # older ones


def test_markup_stays_text(evaluations):
    fields = dict.fromkeys(("model", "model_digest", "defence", "data", "data_digest"), EVIL)
    base = make_effects()
    kinds = tuple(one.model_copy(update={"name": EVIL}) for one in base.kinds)
    distances = tuple(one.model_copy(update={"network": EVIL}) for one in base.distances)
    evil = base.model_copy(update=fields | {"kinds": kinds, "distances": distances, "game": {EVIL: EVIL}})
    page = Page(render(evaluations[:1], analyses=[evil]))
    assert page.open == []
    assert len(page.all("script")) == 1
    assert not [name for _, attributes in page.elements for name in attributes if name.startswith("on")]
    printed_analysis(evil)
    analysis_files(evil)


def test_files_csv_and_table():
    record = make_effects(model="=1+1")
    files = analysis_files(record)
    assert set(files) == {"effects.csv", "effects.svg"}
    assert ElementTree.fromstring(files["effects.svg"]).tag.endswith("svg")
    rows = list(csv.DictReader(effects_csv(record).splitlines()))
    assert [row["what"] for row in rows][3:] == ["adversarial_causal", "base network", "defence network"]
    assert {row["model"] for row in rows} == {"'=1+1"}
    assert (rows[0]["p+0"], rows[0]["kl1000_clean"], rows[4]["kl1000_adversarial"]) == ("0.7", "", "513.3")
    assert max(map(len, printed_analysis(record).splitlines())) <= 80
    assert "513.3" in printed_analysis(record)


def test_odd_records(evaluations):
    nan = Mean(value=math.nan, interval=(math.nan, math.nan))
    record = make_effects(distance=nan, moment=math.nan, class_names=("one",))
    assert "n/a" in printed_analysis(record)
    assert Page(render(evaluations[:1], analyses=[record])).open == []
    assert EffectsRecord.from_json(make_effects().to_json()) == make_effects()
    with pytest.raises(InputError, match="schema_version: got 99"):
        EffectsRecord.from_json(make_effects().model_copy(update={"schema_version": 99}).to_json())
