"""Content and style: table, CSV, figures and the part of the page, also for odd records."""

from __future__ import annotations

import csv
import json
import math
import re
from itertools import pairwise
from xml.etree import ElementTree

import pytest

from deconfound.errors import InputError
from deconfound.records import (
    ANALYSES,
    Accuracy,
    AnalysisRecord,
    Attacker,
    StyleRecord,
    Threat,
)
from deconfound.reporting.analyses import SHOWN, analysis_files
from deconfound.reporting.figures import svg
from deconfound.reporting.page import PICTURE_BUDGET, png_size, render
from deconfound.reporting.style_figure import neighbours_figure, readers_figure
from deconfound.reporting.style_rows import small, style_csv
from pages import EVIL, Page, printed_analysis
from style_records import make_style, reader

CODES = "a\x1b[31mred\x07\x00"


@pytest.fixture(scope="session")
def style(make):
    """Makes records."""

    def made(queries=3, size=(8, 8, 1), **changes):
        return make_style(make["picture"](0, size).clean_png, queries, **changes)

    return made


def poisoned(style):
    record = style()
    asked = record.queries[0].model_copy(update={"png": EVIL})
    return record.model_copy(
        update={
            **dict.fromkeys(("model", "model_digest", "defence", "data", "data_digest", "precision"), EVIL),
            "class_names": (EVIL,) * 10,
            "threat": Threat(norm=EVIL, eps=0.1),
            "attack": Attacker(name=EVIL, settings={EVIL: EVIL, "steps": EVIL}),
            "notes": (EVIL,),
            "training": {EVIL: EVIL},
            "bases": tuple(one.model_copy(update={"name": EVIL}) for one in record.bases),
            "queries": (record.queries[1], asked),
        }
    )


@pytest.fixture(scope="module")
def source(style, evaluations, trainings):
    return render(evaluations, trainings, analyses=[style(), style(seed=8)])


class TestThePage:
    def test_it_has_a_part_of_its_own(self, source, evaluations):
        page = Page(source)
        assert page.open == []
        assert {"href": "#analyses"} in page.all("a")
        assert "#analyses" not in [a["href"] for a in Page(render(evaluations)).all("a")]
        assert "Content and style: small (causaladv-m), seed 7" in page.text
        assert "from 5 evaluation, 2 analysis and 2 training records" in page.text

    def test_every_accuracy_stands_with_what_qualifies_it(self, source):
        articles = re.findall(r'<article id="analysis-.*?</article>', source, re.S)
        assert len(articles) == 2
        words = Page(articles[0]).text
        for part in (
            "digits[test] (10 classes), linf 0.1, pgd-20, n = 360, seed 7",
            "content z 90.0 % [85.0, 95.0] 70.0 % [65.0, 75.0] 1.500 1.750 0.250",
            "style g, exact basis (trained) 40.0 % [35.0, 45.0] 30.0 % [25.0, 35.0]",
            "Exact basis (trained) Deflation basis",
            "Directions of content left out 10 10",
            "Under Σ: canonical, largest 4e-07 0.84",
            "Under Σ: canonical, mean square 2e-07 0.42",
            "Here: content recovered (R²) 2e-07 0.42",
            "Here: one by one, largest (chance) 0.30 (0.34) 0.30 (0.34)",
            "Here: canonical, mean square (chance) 0.35 (0.36) 0.35 (0.36)",
            "Nearest neighbour of the same class 61.0 % 61.0 %",
            "g was trained on the exact basis only",
            "a note",
        ):
            assert part in words, part

    def test_pictures_have_words_and_sizes(self, source):
        article = re.search(r'<article id="analysis-1".*?</article>', source, re.S)[0]
        pictures = Page(article).all("img")
        assert len(pictures) == 3 * 6
        assert pictures[0]["alt"] == "Image 0, a 0"
        assert pictures[5]["alt"] == "Neighbour 5 of image 0 in style: image 54, a 1, at distance 0.4"
        assert {(p["width"], p["height"], p["class"]) for p in pictures} == {("8", "8", "small")}

    def test_the_drawing_says_its_numbers(self, source):
        assert "style g, deflation basis: natural 40.0 % [35.0, 45.0], adversarial 30.0 % [25.0, 35.0]" in source
        ids = [attributes["id"] for _, attributes in Page(source).elements if "id" in attributes]
        assert len(ids) == len(set(ids))

    def test_colours_follow_the_page(self, source):
        article = re.search(r'<article id="analysis-1".*?</article>', source, re.S)[0]
        drawing = re.search(r"<svg.*?</svg>", article, re.S)[0]
        colours = re.findall(r"(?:fill|stroke): ([^;\"]+)", drawing)
        assert any(colour.startswith("var(--series-2") for colour in colours)
        assert not [colour for colour in colours if colour.startswith("#")]

    def test_markup_in_any_string_stays_text(self, style, evaluations):
        source = render(evaluations[:1], analyses=[poisoned(style)])
        page = Page(source)
        assert page.open == []
        assert len(page.all("script")) == 1
        assert "<script>alert" not in source
        assert "{{ 7*7 }}" in page.text
        assert not [name for _, attributes in page.elements for name in attributes if name.startswith("on")]
        assert [a for a in page.all("img") if not a["src"].startswith("data:image/png;base64,iVBOR")] == []
        assert "unreadable picture" in page.text

    def test_headings_do_not_skip_a_level(self, source):
        levels = [int(tag[1]) for tag, _ in Page(source).elements if re.fullmatch(r"h[1-6]", tag)]
        assert all(after <= before + 1 for before, after in pairwise(levels))

    def test_pictures_keep_the_page_small(self, style, evaluations):
        large = style(8, size=(90, 90, 3))
        one = sum(len(q.png) + sum(len(near.png) for near in q.neighbours) for q in large.queries[:1])
        source = render(evaluations[:1], analyses=[large] * math.ceil(2 * PICTURE_BUDGET / one / 4))
        assert "more in the record, left out to keep the page small" in source

    def test_the_same_records_give_the_same_page(self, style, evaluations):
        assert render(evaluations[:1], analyses=[style()]) == render(evaluations[:1], analyses=[style()])


class TestTheTable:
    def test_it_fits_80_columns_and_says_everything(self, style):
        text = printed_analysis(style())
        assert max(map(len, text.splitlines())) <= 80
        words = " ".join(text.split())
        for part in ("small (causaladv-m): digits[test] (10 classes), linf 0.1", "pgd-20", "n = 360", "seed 7",
                     "content z 90.0 % 70.0 % 1.750 (0.250)", "[85.0, 95.0] [65.0, 75.0]", "exact basis (trained)",
                     "canonical, mean square 2e-07 0.42", "Note: a note"):  # fmt: skip
            assert part in words, part

    def test_names_carry_no_codes_into_the_terminal(self, style):
        text = printed_analysis(style(model=CODES, notes=(CODES,), data="[bold]x[/bold]"))
        assert "\x1b" not in text
        assert "\x07" not in text
        assert "[bold]x[/bold]" in text


class TestFiles:
    def test_every_kind_is_shown(self):
        assert SHOWN.keys() == ANALYSES.keys()
        assert all(issubclass(kind, AnalysisRecord) for kind in ANALYSES.values())

    def test_figures_are_what_they_are_called(self, style):
        files = analysis_files(style())
        assert list(files) == ["style.csv", "style-accuracy.svg", "style-neighbours.png"]
        root = ElementTree.fromstring(files["style-accuracy.svg"])
        assert root.tag.endswith("svg")
        assert "content z" in files["style-accuracy.svg"].decode()
        assert files["style-neighbours.png"].startswith(b"\x89PNG")
        assert files == analysis_files(style())

    def test_without_queries_there_is_no_grid(self, style):
        assert list(analysis_files(style(0))) == ["style.csv", "style-accuracy.svg"]
        with pytest.raises(InputError, match="an analysis with queries"):
            neighbours_figure(style(0))

    def test_the_grid_has_a_place_for_every_picture(self, style):
        axes = neighbours_figure(style(4, size=(5, 9, 3))).axes[0]
        assert len(axes.images) == len(axes.texts) == 24
        corners = [image.get_extent() for image in axes.images]
        assert len({(left, top) for left, _, _, top in corners}) == 24
        for left, right, bottom, top in corners:  # proportions stay
            assert (right - left) / (bottom - top) == pytest.approx(5 / 9)

    def test_dots_are_at_their_accuracies(self, style):
        axes = readers_figure(style()).axes[0]
        dots = [line.get_xdata()[0] for line in axes.lines if line.get_marker() in ("o", "D")]
        assert dots == [0.9, 0.7, 0.4, 0.3, 0.4, 0.3]
        assert axes.lines[0].get_xdata()[0] == 0.1  # chance

    def test_odd_numbers_are_drawn_and_written(self, style):
        nan = Accuracy(share=math.nan, interval=(math.nan, math.nan))
        broken = reader().model_copy(update={"natural": nan, "shift": math.nan, "entropy": math.inf})
        record = style(content=broken, class_names=())
        assert svg(readers_figure(record))
        assert "nan" in style_csv(record)
        assert StyleRecord.from_json(record.to_json()).content.entropy == math.inf

    def test_csv_has_full_precision_and_no_formulas(self, style):
        rows = list(csv.DictReader(style_csv(style(model="=1+1", data="a,b\nc")).splitlines()))
        assert len(rows) == 3
        assert {row["model"] for row in rows} == {"'=1+1"}
        assert {row["data"] for row in rows} == {"a,b c"}
        assert float(rows[1]["largest_cosine"]) == 2e-7
        assert float(rows[2]["canonical_mean_square"]) == 0.42
        assert (rows[1]["held_out_largest"], rows[1]["chance_largest"]) == ("0.3", "0.34")
        assert (rows[0]["canonical_mean_square"], rows[0]["basis"], rows[1]["trained"], rows[2]["trained"]) == (
            "",
            "",
            "1",
            "0",
        )
        assert float(rows[0]["divergence"]) == pytest.approx(0.25)


class TestTheRecord:
    def test_it_survives_json(self, style, tmp_path):
        record = style()
        assert StyleRecord.from_json(record.to_json()) == record
        (tmp_path / "style.json").write_text(record.to_json())
        assert StyleRecord.read(tmp_path / "style.json") == record
        assert png_size(record.queries[0].png) == (8, 8)

    def test_one_from_before_canonical_correlations_is_read_and_shown(self, style, evaluations):
        kept = json.loads(style().to_json())
        for basis in kept["bases"]:
            del basis["recovered"], basis["chance"]
            for found in ("stored", "held_out"):
                del basis[found]["canonical_largest"], basis[found]["canonical_mean_square"]
        record = StyleRecord.from_json(json.dumps(kept))
        assert record.bases[0].stored.canonical_largest is None
        words = " ".join(printed_analysis(record).split())
        assert "under Σ: canonical, largest n/a n/a" in words
        assert "here: one by one, largest (chance) 0.30 0.30" in words
        assert Page(render(evaluations[:1], analyses=[record])).open == []
        assert [row["recovered"] for row in csv.DictReader(style_csv(record).splitlines())] == ["", "", ""]

    def test_it_has_a_basis(self, style):
        text = style().model_copy(update={"bases": ()}).to_json()
        with pytest.raises(InputError, match=r"^record: bases: got .*at least 1 item"):
            StyleRecord.from_json(text)

    def test_another_kind_is_refused(self, evaluations):
        with pytest.raises(InputError, match="a record of kind 'style-analysis'"):
            StyleRecord.from_json(evaluations[0].to_json())


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "n/a"),
        (0.0, "0"),
        (1e-9, "1e-09"),
        (-2e-7, "-2e-07"),
        (-0.5, "-0.50"),
        (0.0049, "5e-03"),
        (0.5, "0.50"),
        (math.nan, "nan"),
    ],
)
def test_small_numbers(value, shown):
    assert small(value) == shown
