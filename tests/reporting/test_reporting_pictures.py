"""Feature pictures: table, CSV, grid and the part of the page."""

from __future__ import annotations

import csv
import math
import re

import pytest

from analysis_records import make_pictures
from deconfound.errors import InputError
from deconfound.records import PicturesRecord
from deconfound.reporting.analyses import analysis_files
from deconfound.reporting.page import render
from deconfound.reporting.pictures import pictures_csv
from pages import EVIL, Page, printed_analysis


@pytest.fixture(scope="session")
def pictures(make):
    """Makes records."""

    def made(images=2, size=(8, 6, 3), **changes):
        return make_pictures(make["picture"](0, size).clean_png, images, **changes)

    return made


def test_the_page_shows_every_picture_with_words(evaluations, pictures):
    source = render(evaluations[:1], analyses=[pictures()])
    page = Page(source)
    assert page.open == []
    assert "Feature pictures: small (pgd-at)" in page.text
    assert "natural 0.990 0.990 0.100 2 of 2 2 of 2 2 of 2" in page.text
    assert "adversarial 0.990 0.990 0.100 0 of 2 0 of 2 2 of 2" in page.text
    assert "miss the difference of logits by 0.01 at most, of up to 3.5" in page.text
    article = re.search(r'<article id="analysis-1".*?</article>', source, re.S)[0]
    found = Page(article).all("img")
    assert len(found) == 2 * 6
    assert {(one["width"], one["height"]) for one in found} == {("8", "6")}
    assert [one["alt"] for one in found[:6]] == [
        "Image 0, a 1, predicted 1",
        "Image 0, a 1, attacked predicted 2",
        "Picture of the natural features of image 0, cosine 0.99, predicted 1",
        "Picture of the adversarial features of image 0, cosine 0.99, predicted 2",
        "What speaks for 1 (blue) and against it (orange) in image 0, logit difference 3.5",
        "What speaks for 1 (blue) and against it (orange) in image 0 attacked, logit difference 3.5",
    ]


def test_markup_stays_text(evaluations, pictures):
    base = pictures(kinds=(EVIL, "natural"))
    images = tuple(image.model_copy(update={"png": EVIL}) for image in base.images)
    fields = dict.fromkeys(("model", "model_digest", "defence", "data", "data_digest", "layer"), EVIL)
    evil = base.model_copy(update=fields | {"class_names": (EVIL,) * 5, "images": images, "optimisation": {EVIL: EVIL}})
    page = Page(render(evaluations[:1], analyses=[evil]))
    assert page.open == []
    assert len(page.all("script")) == 1
    assert "unreadable picture" in page.text
    assert not [name for _, attributes in page.elements for name in attributes if name.startswith("on")]
    printed_analysis(evil)
    analysis_files(evil)


def test_any_number_of_kinds_and_no_saliency(evaluations, pictures):
    base = pictures(kinds=("natural", "adversarial", "causal", "counterfactual"))
    bare = tuple(image.model_copy(update={"saliency": None, "adversarial_saliency": None}) for image in base.images)
    record = base.model_copy(update={"images": bare, "integration": {}})
    causal = pictures(kinds=("natural", "adversarial_causal", "counterfactual"))
    text = Page(render(evaluations[:1], analyses=[causal])).text
    assert "adversarial causal (AC) 0.990" in text
    assert "F natural 1 AC 2 CF 3" in text
    assert "AC and CF are adversarial causal features" in text
    assert "AC and CF" not in Page(render(evaluations[:1], analyses=[pictures()])).text
    assert "counterfactual" in printed_analysis(record)
    assert "Integrated" not in printed_analysis(record)
    page = Page(render(evaluations[:1], analyses=[record]))
    assert len(page.all("img")) - 3 * len(evaluations[0].gallery) == 2 * 6
    assert "Saliency:" not in page.text


def test_pictures_keep_the_page_small(evaluations, pictures):
    source = render(evaluations[:1], analyses=[pictures(6, size=(90, 90, 3))] * 5)
    assert "more in the record, left out" in source
    assert len(source) < 2_000_000


def test_files_csv_and_table(pictures):
    record = pictures(model="=1+1")
    files = analysis_files(record)
    assert set(files) == {"pictures.csv", "pictures.png"}
    assert files["pictures.png"].startswith(b"\x89PNG")
    rows = list(csv.DictReader(pictures_csv(record).splitlines()))
    assert [(row["index"], row["features"]) for row in rows] == [
        (str(i), kind) for i in range(2) for kind in ("natural", "adversarial")
    ]
    assert {row["model"] for row in rows} == {"'=1+1"}
    assert {row["saliency_error"] for row in rows} == {"0.01"}
    assert max(map(len, printed_analysis(record).splitlines())) <= 80


def test_odd_records(evaluations, pictures):
    base = pictures(1, class_names=("one",))
    odd = base.images[0].features[0].model_copy(update={"cosine": math.nan, "prediction": -1, "decoded": -1})
    record = base.model_copy(update={"images": (base.images[0].model_copy(update={"features": (odd,)}),)})
    assert "nan" in printed_analysis(record)
    assert "none" in Page(render(evaluations[:1], analyses=[record])).text
    analysis_files(record)
    assert PicturesRecord.from_json(base.to_json()) == base
    with pytest.raises(InputError, match="schema_version: got 99"):
        PicturesRecord.from_json(base.model_copy(update={"schema_version": 99}).to_json())
