"""Instrument diagnostics: what is said in words, table, CSV, figure and the part of the page."""

from __future__ import annotations

import csv
import math
from xml.etree import ElementTree

import pytest

from analysis_records import estimate, make_instruments
from deconfound.errors import InputError
from deconfound.records import InstrumentsRecord
from deconfound.reporting.analyses import analysis_files
from deconfound.reporting.instruments import findings, instruments_csv
from deconfound.reporting.page import render
from pages import EVIL, Page, printed_analysis


def test_a_weak_instrument_is_called_weak_everywhere(evaluations):
    weak, strong = make_instruments(), make_instruments(f=(55.4, 12.0))
    assert "4.2 WEAK" in printed_analysis(weak)
    assert "The instrument is weak: joint first-stage F 4.2 (below 10 alone: T2)" in " ".join(
        printed_analysis(weak).split()
    )
    page = render(evaluations[:1], analyses=[weak])
    assert "WEAK" in page
    assert '<div class="warning">The instrument is weak' in page
    assert '"weak": true' in weak.to_json()
    assert "weak" not in printed_analysis(strong).lower()
    assert "The instrument is strong" in render(evaluations[:1], analyses=[strong])


@pytest.mark.parametrize(
    ("p_values", "against"),
    [((0.5, 0.5, 0.5), (False, False)), ((0.01, 0.01, 0.01), (True, True)), ((0.5, 0.01, 0.5), (False, True))],
)
def test_what_the_tests_say(p_values, against):
    found = findings(make_instruments(f=(50.0,), p_values=p_values))
    assert tuple(flag for _, flag in found[1:3]) == against
    assert "the record does not say how much" in found[3][0]
    whole = findings(make_instruments(f=(50.0,), p_values=p_values, treatment_share=1.0))
    assert tuple(flag for _, flag in whole[1:]) == against
    assert ("The treatment is endogenous" in whole[1][0]) == against[0]
    words = "does not prove" if not against[1] else "not all instruments" if p_values[2] < 0.05 else "in doubt"
    assert words in found[2][0]


def test_the_robust_test_decides(evaluations):
    for p, robust, against in ((0.01, 0.4, False), (0.4, 0.01, True)):
        record = make_instruments(p_values=(p, 0.5, 0.5), robust=robust)
        text, flag = findings(record)[1]
        assert (flag, f"score p {robust:.3f}, Wu-Hausman p {p:.3f}" in text) == (against, True)
        assert ("allows for heteroskedasticity" in text) == (not against)
    page = Page(render(evaluations[:1], analyses=[record])).text
    assert "Wooldridge's score the treatments are exogenous 2.5 chi2(2) 0.010" in page
    assert "the components predict 31.0 % of the logit's variance, all features 97.0 %" in page.replace("\xa0", " ")
    (row, _) = csv.DictReader(instruments_csv(record).splitlines())
    assert (row["wooldridge_p"], row["components_r2"], row["features_r2"]) == ("0.01", "0.31", "0.97")
    assert max(map(len, printed_analysis(record).splitlines())) <= 80


def test_the_page_says_every_number(evaluations):
    source = render(evaluations[:1], analyses=[make_instruments()])
    page = Page(source)
    assert page.open == []
    for part in (
        "Instrument diagnostics: small (pgd-at)",
        "linf 0.1, pgd-20, the network's own cut (100 features), n = 360, seed 7",
        "T2 4.2 WEAK 0.2 1 [0.8, 1.2] 0.5 [0.3, 0.7] 0.6 [0.4, 0.8]",
        "Wu-Hausman the same, errors of one variance 1.5 chi2(3) 0.010",
        "treatment: 2 components of F_adv (80.0 % of its variance)",
        "a note",
    ):
        assert part in page.text, part
    assert "T1: OLS 1 [0.8, 1.2], 2SLS 0.5 [0.3, 0.7]" in source


def test_markup_stays_text(evaluations):
    base = make_instruments()
    fields = dict.fromkeys(("model", "model_digest", "defence", "data", "data_digest", "layer"), EVIL)
    stages = tuple(stage.model_copy(update={"name": EVIL}) for stage in base.first_stages)
    evil = base.model_copy(update=fields | {"first_stages": stages, "class_names": (EVIL,)})
    page = Page(render(evaluations[:1], analyses=[evil]))
    assert page.open == []
    assert len(page.all("script")) == 1
    assert not [name for _, attributes in page.elements for name in attributes if name.startswith("on")]
    printed_analysis(evil)
    analysis_files(evil)


def test_the_table_fits_the_screen():
    assert max(map(len, printed_analysis(make_instruments(layer="l" * 90)).splitlines())) <= 80


def test_files_and_csv():
    record = make_instruments(model="=1+1")
    files = analysis_files(record)
    assert set(files) == {"instruments.csv", "instruments.svg"}
    assert ElementTree.fromstring(files["instruments.svg"]).tag.endswith("svg")
    rows = list(csv.DictReader(instruments_csv(record).splitlines()))
    assert [row["weak"] for row in rows] == ["0", "1"]
    assert {row["model"] for row in rows} == {"'=1+1"}
    assert float(rows[0]["tsls_low"]) == 0.3


def test_odd_numbers_are_drawn(evaluations):
    base = make_instruments(f=(math.nan, math.inf))
    effect = base.effects[0].model_copy(update={"gmm": estimate(math.nan)})
    record = base.model_copy(update={"effects": (effect, base.effects[1])})
    assert base.weak
    assert InstrumentsRecord.from_json(make_instruments().to_json()) == make_instruments()
    analysis_files(record)
    assert "nan" in printed_analysis(record)
    assert Page(render(evaluations[:1], analyses=[record])).open == []
    with pytest.raises(InputError, match="schema_version: got 99"):
        InstrumentsRecord.from_json(make_instruments().model_copy(update={"schema_version": 99}).to_json())
