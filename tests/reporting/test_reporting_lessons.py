"""Lessons: every sentence follows from the figures, and turns with them."""

from __future__ import annotations

import pytest

from analysis_records import (
    make_effects,
    make_exposure,
    make_instruments,
    make_pictures,
    make_reliance,
    reliance_point,
)
from deconfound.records import PairedDifference, PairedTest, Share, StudyTest
from deconfound.reporting import Lessons, lessons_of, render
from deconfound.reporting.lessons import attack_lines, contrast_lines, control_lines, reliance_lines, trust_lines
from pages import EVIL, Page
from style_records import make_style


def relying(defence, share, half=0.02, **changes):
    found = Share(share=share, interval=(share - half, share + half))
    point = reliance_point()
    done = tuple(
        one.model_copy(update={"changed": found}) if (one.variable, one.value) == ("confounder", "other") else one
        for one in point.interventions
    )
    return make_reliance(defence=defence, points=(point.model_copy(update={"interventions": done}),), **changes)


def against(difference=0.1, p=0.01, adjusted=None, same=True, method="cafe", control="pgd-at", suite="standard"):
    robust = PairedDifference(
        only_first=9, only_second=1, difference=difference, interval=(difference - 0.05, difference + 0.05), p_value=p,
        adjusted_p_value=adjusted,
    )  # fmt: skip
    test = PairedTest(first=method, second=control, n=80, robust=robust, clean=robust)
    return StudyTest(method=method, control=control, question=suite, seed=0, same_attacks=same, test=test)


def line_of(test, evaluations):
    (line,) = control_lines([test], evaluations)
    return line


class TestAgainstAControl:
    @pytest.mark.parametrize(
        ("difference", "p", "adjusted", "says"),
        [
            (0.1, 0.01, None, "cafe beats its control pgd-at: +10.0 points of robust accuracy [+5.0, +15.0]"),
            (-0.1, 0.01, 0.03, "cafe falls behind its control pgd-at: -10.0 points"),
            (0.1, 0.03, 0.06, "cafe does not beat its control pgd-at, the difference is within noise: +10.0"),
            (0.1, 0.05, None, "within noise"),
            (0.0, 1.0, 1.0, "within noise"),
        ],
    )
    def test_the_word_is_that_of_the_test_after_holm(self, evaluations, difference, p, adjusted, says):
        line = line_of(against(difference, p, adjusted), evaluations)
        assert says in line
        assert f"p = {p if adjusted is None else adjusted:.3f}" in line
        assert "suite standard, n = 80" in line

    def test_a_masked_gradient_leaves_it_open(self, evaluations):
        line = line_of(against(0.3, 0.0001, method="ciiv", control="standard"), evaluations)
        assert line.startswith("Whether ciiv beats its control standard is open, ciiv being UNRELIABLE: +30.0")
        other = line_of(against(0.3, 0.0001, method="ciiv", control="standard", suite="quick"), evaluations)
        assert other.startswith("ciiv beats")  # of that suite no verdict is doubted

    def test_what_else_is_said(self, evaluations):
        assert "p <0.001" in line_of(against(p=0.0001), evaluations)
        assert "attacks made for it" in line_of(against(same=False), evaluations)
        assert "attacks made for it" not in line_of(against(), evaluations)
        none = against().model_copy(update={"test": PairedTest(first="a", second="b", not_compared="no image")})
        assert line_of(none, evaluations) == "cafe is not compared with pgd-at: suite standard, no image."

    def test_suites_that_agree_share_a_line(self, evaluations):
        tests = [
            against(), against(method="ciiv", control="standard", suite="quick"), against(suite="quick"),
            against(-0.1, suite="unseen"),
        ]  # fmt: skip
        lines = control_lines(tests, evaluations)
        assert [line.partition(":")[0] for line in lines] == [
            "cafe beats its control pgd-at", "cafe falls behind its control pgd-at", "ciiv beats its control standard",
        ]  # fmt: skip
        assert "suite standard" in lines[0]
        assert "suite quick" in lines[0]


class TestReliance:
    def test_only_clear_intervals_are_ordered(self):
        lines = reliance_lines([
            relying("standard", 0.20), relying("more", 0.30), relying("less", 0.10), relying("near", 0.22),
            relying("too", 0.25),
        ])  # fmt: skip
        assert lines == [
            "Reliance, predictions that change under do(confounder = other), n = 360: standard 20.0 % [18.0, 22.0];"
            " more 30.0 % [28.0, 32.0]; less 10.0 % [8.0, 12.0]; near 22.0 % [20.0, 24.0]; too 25.0 % [23.0, 27.0].",
            "more and too lean on the confounder more than standard, clear of its interval.",
            "less leans on it less than standard, clear of its interval.",
            "Whether near leans on it more or less than standard is within noise.",
        ]

    def test_a_random_networks_noise_is_said(self):
        lines = reliance_lines([relying("ciiv", 0.4, unsteady=Share(share=0.05, interval=(0.03, 0.07)))])
        assert lines[1] == "Of ciiv's predictions 5.0 % [3.0, 7.0] change when only its random numbers do."
        assert len(lines) == 2

    def test_none(self):
        assert reliance_lines([]) == []


class TestRobustAndConfounded:
    def found(self, evaluations, share, **changes):
        return contrast_lines(evaluations, [relying("standard", 0.2), relying("pgd-at", share, **changes)])

    def test_only_where_both_are_clear(self, evaluations):
        (line,) = self.found(evaluations, 0.3)
        assert line.startswith("pgd-at withstands more than standard and yet leans on the confounder more:")
        assert not self.found(evaluations, 0.21)
        assert not self.found(evaluations, 0.1)
        assert not contrast_lines(evaluations, [relying("pgd-at", 0.3)])  # nothing to hold it against
        weak = [one.model_copy(update={"robust_interval": (0.0, 0.9)}) for one in evaluations]
        assert not self.found(weak, 0.3)

    def test_not_of_an_unreliable_accuracy(self, evaluations):
        both = [relying("standard", 0.2), relying("ciiv", 0.4)]
        assert not contrast_lines(evaluations, both)

    def test_not_across_suites(self, evaluations):
        moved = [evaluations[0], evaluations[1].model_copy(update={"suite": "quick"})]
        assert not self.found(moved, 0.3)


def test_losses_by_suite_and_size(make):
    lines = attack_lines([
        make["evaluation"](defence="a", clean=0.9, robust=0.2, n=100),
        make["evaluation"](defence="b", clean=0.8, robust=0.6, n=100, reasons=("masked",)),
        make["evaluation"](defence="a", clean=0.9, robust=0.1, n=50, suite="quick", budget="demo"),
    ])  # fmt: skip
    assert len(lines) == 2
    (same,) = attack_lines([make["evaluation"](defence="c", clean=0.9, robust=0.9, n=100)])
    assert "c stays at 90.0 %" in same
    assert lines[0].startswith(
        "Under attack (suite standard, linf 0.1, n = 100) a falls by 70.0 points from 90.0 % to 20.0"
    )
    assert "b falls by 20.0 points from 80.0 % to 60.0 % [50.2, 69.1] (UNRELIABLE)." in lines[0]
    assert "suite quick (demo budget), linf 0.1, n = 50" in lines[1]


def test_trust(evaluations, make):
    lines = trust_lines(evaluations, [make["training"](seed=3)])
    assert lines[0].startswith("Do not quote ciiv under suite standard: UNRELIABLE: an unbounded attack")
    assert lines[1].startswith("Every network was trained once, with seed 3")
    sure, *more = trust_lines(evaluations[:2], [make["training"](seed=3), make["training"](seed=4)])
    assert sure.startswith("No verdict was unreliable, in 2 evaluations; the robust accuracy is an upper bound")
    assert not more


def test_every_analysis_has_its_figure_or_none(evaluations, make):
    picture = make["picture"](0).clean_png
    analyses = [make_style(picture), make_effects(), make_exposure(picture), make_instruments(), make_pictures(picture)]
    found = lessons_of(evaluations, analyses, [], [])
    for start in ("Style of", "Causal effects of", "Exposure of", "Instruments of"):
        assert sum(line.startswith(start) for line in found.learned) == 1
    assert all(line.endswith(".") for line in found.learned)
    assert len(found.learned) == len(lessons_of(evaluations, [], [], []).learned) + 4


def test_the_page_shows_them_first_and_as_text(evaluations):
    found = lessons_of(
        [one.model_copy(update={"defence": EVIL}) for one in evaluations], [], [against(method=EVIL)], [], [EVIL]
    )
    source = render(evaluations, lessons=found)
    page = Page(source)
    assert page.open == []
    assert len(page.all("script")) == 1
    assert not [name for _, attributes in page.elements for name in attributes if name.startswith("on")]
    assert source.index('id="lessons"') < source.index('id="summary"')
    assert "What was learned" in page.text
    assert "What was learned" not in Page(render(evaluations)).text
    assert {"href": "#lessons"} in page.all("a")
    assert isinstance(found, Lessons)
