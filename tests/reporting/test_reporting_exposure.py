"""Instrument exposure: table, CSV, figures and the part of the page."""

from __future__ import annotations

import csv
import math
import re
from xml.etree import ElementTree

import pytest

from analysis_records import make_exposure
from deconfound.errors import InputError
from deconfound.records import ExposureRecord, Mean
from deconfound.reporting.analyses import analysis_files
from deconfound.reporting.exposure import exposure_csv
from deconfound.reporting.page import PICTURE_BUDGET, png_size, render
from deconfound.reporting.picture_grid import grid_figure
from pages import EVIL, Page, printed_analysis


@pytest.fixture(scope="session")
def exposure(make):
    """Makes records."""

    def made(looks=2, size=(8, 8, 3), **changes):
        return make_exposure(make["picture"](0, size).clean_png, looks, **changes)

    return made


def test_the_page_says_every_number(evaluations, exposure):
    source = render(evaluations[:1], analyses=[exposure(), exposure(seed=8, consistency=0.0)])
    page = Page(source)
    assert page.open == []
    words = page.text.replace("\xa0", " ")
    for part in (
        "Instrument exposure: small (pgd-at), seed 7",
        "9 looks (centres of a 3 x 3 grid), consistency weight 100, n = 360, seed 7",
        "Spread of features per exposure 0.120 [0.110, 0.130]; of the features themselves 0.340 [0.330, 0.350]",
        "9 0.500 60.0 % [55.0, 65.0]",
        "2 analyses side by side",
        "360 0 0.120 [0.110, 0.130] 0.340 [0.330, 0.350] 80.0 % [75.0, 85.0]",
    ):
        assert part in words, part
    article = re.search(r'<article id="analysis-2".*?</article>', source, re.S)[0]
    pictures = Page(article).all("img")
    assert len(pictures) == 2 * 10
    assert pictures[0]["alt"] == "Image 0, a 1, predicted 1"
    assert pictures[2]["alt"] == "Look 2 at image 0, exposure 0.50, alone predicts 1"
    assert article.count('class="prediction wrong"') == 2 * 6 + 1


def test_markup_stays_text(evaluations, exposure):
    fields = dict.fromkeys(("model", "model_digest", "defence", "data", "data_digest", "policy"), EVIL)
    base = exposure()
    looks = tuple(one.model_copy(update={"png": EVIL}) for one in base.looks)
    evil = base.model_copy(update=fields | {"class_names": (EVIL,) * 10, "looks": looks})
    page = Page(render(evaluations[:1], analyses=[evil, evil]))
    assert page.open == []
    assert len(page.all("script")) == 1
    assert "unreadable picture" in page.text
    assert not [name for _, attributes in page.elements for name in attributes if name.startswith("on")]
    printed_analysis(evil)
    analysis_files(evil)


def test_pictures_keep_the_page_small(evaluations, exposure):
    large = exposure(8, size=(48, 48, 3))
    source = render(evaluations[:1], analyses=[large] * 4)
    assert "more in the record, left out" in source
    assert len(source) < 2_000_000
    assert PICTURE_BUDGET < 1_000_000


def test_files_csv_and_table(exposure):
    record = exposure(model="=1+1")
    files = analysis_files(record)
    assert set(files) == {"exposure.csv", "exposure.svg", "exposure-views.png"}
    assert ElementTree.fromstring(files["exposure.svg"]).tag.endswith("svg")
    rows = list(csv.DictReader(exposure_csv(record).splitlines()))
    assert [row["look"] for row in rows] == ["all", *map(str, range(1, 10))]
    assert {row["model"] for row in rows} == {"'=1+1"}
    assert max(map(len, printed_analysis(record).splitlines())) <= 80
    assert "0.120 [0.110, 0.130]" in printed_analysis(record)


def test_odd_records(evaluations, exposure):
    nan = Mean(value=math.nan, interval=(math.nan, math.nan))
    record = exposure(0, spread=nan, raw_spread=nan, class_names=("one",))
    assert set(analysis_files(record)) == {"exposure.csv", "exposure.svg"}
    assert "n/a" in printed_analysis(record)
    assert Page(render(evaluations[:1], analyses=[record])).open == []
    assert ExposureRecord.from_json(exposure().to_json()) == exposure()
    with pytest.raises(InputError, match="schema_version: got 99"):
        ExposureRecord.from_json(exposure().model_copy(update={"schema_version": 99}).to_json())
    with pytest.raises(InputError, match="pictures"):
        grid_figure([])
    assert png_size("") == (0, 0)
