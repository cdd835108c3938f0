"""The page: self-contained, escaped, deterministic, complete, and readable for odd records."""

from __future__ import annotations

import math
import re
from collections import Counter
from itertools import pairwise

import pytest

from deconfound.errors import InputError
from deconfound.records import AuditResult, Check, ColumnResult, Machine, Spread, Threat, Verdict
from deconfound.reporting.page import PICTURE_BUDGET, png_size, render
from pages import EVIL, Page


@pytest.fixture(scope="module")
def source(evaluations, trainings) -> str:
    return render(evaluations, trainings, "Five defences")


def test_every_tag_is_closed_and_the_landmarks_are_there(source):
    page = Page(source)
    assert page.open == []
    assert page.all("html") == [{"lang": "en"}]
    for tag in ("main", "header", "nav", "footer", "h1"):
        assert len(page.all(tag)) == 1, tag
    assert source.count("<title>Five defences</title>") == source.count("<title>") == 1
    assert {"class": "skip", "href": "#main"} in page.all("a")


def test_headings_do_not_skip_a_level(source):
    levels = [int(tag[1]) for tag, _ in Page(source).elements if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))


def test_nothing_is_fetched(source):
    page = Page(source)
    for _, attributes in page.elements:
        for name in ("src", "href", "xlink:href", "srcset", "poster", "action", "data"):
            value = attributes.get(name) or "#"
            assert value.startswith(("#", "data:image/png;base64,")), value
    assert "@import" not in source
    assert all(target.startswith("#") for target in re.findall(r"url\(\s*[\"']?([^)]*)", source))
    assert page.all("link") == page.all("iframe") == page.all("object") == []
    assert set(re.findall(r"https?://[^\"' <]+", source)) == {"http://www.w3.org/2000/svg"}


def test_ids_are_unique_and_references_resolve(source):
    page = Page(source)
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert [name for name, times in Counter(ids).items() if times > 1] == []
    for _, attributes in page.elements:
        for name in ("aria-labelledby", "for", "aria-describedby"):
            assert set((attributes.get(name) or "").split()) <= set(ids)
        if (attributes.get("href") or "").startswith("#"):
            assert attributes["href"][1:] in ids


def test_pictures_have_words_and_sizes(source):
    pictures = Page(source).all("img")
    assert len(pictures) == 5 * 4 * 3
    for attributes in pictures:
        assert attributes["alt"]
        assert (attributes["width"], attributes["height"]) == ("8", "8")
        assert attributes["class"] == "small"
    assert any("predicted four" in attributes["alt"] for attributes in pictures)
    assert "image-rendering: pixelated" in source


def test_drawings_have_a_name_or_are_hidden(source):
    for attributes in Page(source).all("svg"):
        assert attributes.get("aria-hidden") == "true" or attributes.get("aria-labelledby")


def test_the_results_stand_with_all_that_qualifies_them(source):
    rows = re.search(r'<table id="results">.*?<tbody>(.*?)</tbody>', source, re.S)[1].split("</tr>")[:-1]
    assert len(rows) == 5
    for row, share in zip(rows, ("74.7", "73.3", "71.4", "0.0", "86.1"), strict=True):
        words = Page(row + "</tr>").text
        for part in (f"{share} %", "[", "digits", "linf 0.1", "standard", "360"):
            assert part in words
    assert "UNRELIABLE" in Page(rows[-1] + "</tr>").text
    assert "an unbounded attack leaves 59.0 % standing" in Page(rows[-1] + "</tr>").text
    for article in re.findall(r'<article id="model-.*?</article>', source, re.S):
        words = Page(article).text
        assert re.search(r"Robust accuracy [\d.]+ % \[[\d., ]+\] (reliable|UNRELIABLE)", words)
        assert "linf 0.1 · suite standard · n = 360 · seed 0" in words


def test_headings_of_the_results_are_buttons(source):
    head = re.search(r'<table id="results">.*?<thead>(.*?)</thead>', source, re.S)[1]
    page = Page(head)
    assert len(page.all("th")) == len(page.all("button")) == 10
    assert {attributes["scope"] for attributes in page.all("th")} == {"col"}


def test_settings_versions_and_machines_are_folded_away(source):
    inside = " ".join(re.findall(r"<details>.*?</details>", source, re.S))
    for part in ("step_size=0.025", "2.13.0", "Generic x86-64", "4fd1c2", "abcdef0123456789", "32-true"):
        assert part in inside


def test_same_records_give_the_same_bytes(source, evaluations, trainings):
    assert render(evaluations, trainings, "Five defences") == source


def test_it_is_small(source, make):
    assert len(source.encode()) < 300_000
    large = [make["evaluation"](f"m{i}", size=(48, 48, 3), pictures=16) for i in range(5)]
    page = render(large)
    assert len(page) < PICTURE_BUDGET + 300_000
    assert "more in the record, left out to keep the page small" in page


def test_no_evaluation_is_an_input_error():
    with pytest.raises(InputError, match="at least one evaluation record"):
        render([])


def poisoned(make):
    """An evaluation and a training with markup in every string."""
    base, run = make["evaluation"](), make["training"]()
    machine = Machine(device=EVIL, processor=EVIL, threads=1, versions={EVIL: EVIL})
    verdict = Verdict(
        reliable=False,
        reasons=(EVIL,),
        checks=(
            Check(name=EVIL, measured=EVIL, threshold=EVIL, passed=False, note=EVIL),
            Check(name=EVIL, measured=math.nan, threshold=None, passed=None),
        ),
    )
    words = dict.fromkeys(
        ("model", "model_digest", "defence", "data", "data_digest", "suite", "budget", "precision"), EVIL
    )
    pngs = dict.fromkeys(("attack", "clean_png", "perturbation_png", "adversarial_png"), EVIL)
    evaluation = base.model_copy(
        update={
            **words,
            "class_names": (EVIL,) * 10,
            "threat": Threat(norm=EVIL, eps=0.1),
            "verdict": verdict,
            "attacks": tuple(a.model_copy(update={"name": EVIL, "settings": {EVIL: [EVIL]}}) for a in base.attacks),
            "curve": tuple(point.model_copy(update={"attack": EVIL}) for point in base.curve),
            "gallery": (*base.gallery[:1], *(picture.model_copy(update=pngs) for picture in base.gallery[1:])),
            "machine": machine,
            "training": {EVIL: {EVIL: EVIL}},
            "notes": (EVIL,),
            "surrogate": EVIL,
            "audit": AuditResult(survivors=9, sampled=5, fell=0, complete=False, bound=0.1),
            "columns": tuple(
                ColumnResult(
                    name=EVIL + str(place),
                    group=group,
                    threat=EVIL,
                    settings={EVIL: EVIL, "bound": EVIL},
                    n=9,
                    accuracy=0.5,
                    interval=(0.2, 0.8),
                )
                for place, group in enumerate(("norm", "beyond", "union", EVIL))
            ),
            "spread": Spread(
                judge={"kind": EVIL, EVIL: EVIL},
                clean=(0.9,) * 5,
                robust=(0.5,) * 5,
                clean_deviation=0.0,
                robust_deviation=0.0,
            ),
        }
    )
    words = dict.fromkeys(("recipe_digest", "data", "data_digest", "selection"), EVIL)
    history = tuple({**row, f"loss {EVIL}": 1.0} for row in run.history)
    training = run.model_copy(
        update={
            **words, "recipe": {"name": EVIL, EVIL: EVIL}, "class_names": (EVIL,), "validation": {EVIL: 0.5},
            "warnings": (EVIL,), "history": history, "machine": machine,
        }
    )  # fmt: skip
    return evaluation, training


def test_markup_in_any_string_stays_text(make, evaluations):
    evaluation, training = poisoned(make)
    source = render([evaluation, evaluations[0]], [training], EVIL)
    page = Page(source)
    assert page.open == []
    assert len(page.all("script")) == 1
    assert "<script>alert" not in source
    assert "49" not in re.findall(r"\{\{ (\d+)", source)
    assert "{{ 7*7 }}" in page.text
    assert not [name for _, attributes in page.elements for name in attributes if name.startswith("on")]
    assert [a for a in page.all("img") if not a["src"].startswith("data:image/png;base64,iVBOR")] == []
    assert "unreadable picture" in page.text
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))


def test_the_policy_allows_the_pages_own_script_alone(source):
    policy = next(a["content"] for a in Page(source).all("meta") if a.get("http-equiv"))
    assert "default-src 'none'" in policy
    assert re.search(r"script-src 'sha256-[A-Za-z0-9+/]{43}='", policy)


@pytest.mark.parametrize("classes", [1, 1000])
def test_any_number_of_classes(make, classes):
    names = tuple(f"kind {i}" for i in range(classes))
    words = Page(render([make["evaluation"](names=names)])).text
    assert f"{classes:,} class{'es' if classes > 1 else ''}" in words
    assert ("and 980 more" in words) == (classes == 1000)
    assert "kind 999" not in words


def test_missing_parts_are_left_out_or_named(make):
    record = make["evaluation"](curve=(), gallery=(), attacks=(), verdict=Verdict(reliable=True), training={})
    page = Page(render([record]))
    assert "Accuracy against the radius" not in page.text
    assert "What the attack did" not in page.text
    assert "None was recorded: nothing speaks against this number" in page.text
    assert "#trainings" not in [a["href"] for a in page.all("a")]
    assert page.open == []


def test_a_training_without_history_is_named(make, evaluations):
    words = Page(render(evaluations[:1], [make["training"](history=(), selected_epoch=None)])).text
    assert "No history was recorded." in words


def test_values_that_are_not_numbers_are_said(make):
    checks = (
        Check(name="a", measured=math.nan, threshold=None, passed=None),
        Check(name="b", measured=None, threshold=0.5, passed=False),
    )
    nan = (math.nan, math.nan)
    verdict = Verdict(reliable=False, checks=checks)
    record = make["evaluation"](verdict=verdict, robust_accuracy=math.nan, robust_interval=nan)
    words = Page(render([record])).text
    assert "a nan n/a not run" in words
    assert "b n/a 0.5 FAILED" in words
    assert "no reason was recorded" in words


def test_pictures_of_any_shape_keep_their_proportions(make):
    wide, grey, large = (
        make["evaluation"](name, size=size, pictures=1)
        for name, size in (("wide", (40, 10, 3)), ("grey", (10, 24, 1)), ("large", (160, 96, 3)))
    )
    pictures = Page(render([wide, grey, large])).all("img")
    sizes = {(a["width"], a["height"]): a.get("class") for a in pictures}
    assert sizes == {("40", "10"): "small", ("10", "24"): "small", ("160", "96"): None}


def test_curves_of_different_norms_or_data_do_not_share_an_axis(make):
    record = make["evaluation"]
    page = render([record("a"), record("b", norm="l2"), record("c", data="shapes"), record("d")])
    assert len(re.findall(r'<svg[^>]*aria-labelledby="curve-\d+-title', page)) == 3
    assert "The rows answer different questions" in page


def test_png_size_reads_headers_and_refuses_the_rest(make):
    assert png_size(make["picture"](0, (5, 7, 3)).clean_png) == (5, 7)
    assert png_size("not base64!") == png_size("aGVsbG8=") == png_size("") == png_size("é") == (0, 0)
