"""The summary: ranks only equal questions, and tells every reason for doubt."""

from __future__ import annotations

import math

from deconfound.records import Verdict
from deconfound.reporting.summary import groups, summarise


def test_it_says_what_was_tested(evaluations, trainings):
    tested = " ".join(summarise(evaluations, trainings).tested)
    for part in ("5 evaluations", "digits", "10 classes", "linf 0.1", "suite standard", "n = 360", "2 trainings"):
        assert part in tested


def test_the_best_reliable_result_is_named_not_the_unreliable_higher_one(evaluations):
    (held,) = summarise(evaluations).held
    assert "small (cafe) keeps 74.7 % [70.0, 78.9]" in held
    assert "ciiv" not in held
    assert "overlaps that of small (pgd-at) and small (causaladv-m)" in held


def test_a_clear_winner_is_called_clear(make):
    record = make["evaluation"]
    (held,) = summarise([record("a", robust=0.2), record("b", robust=0.8)]).held
    assert "clear of the others' intervals" in held


def test_nothing_reliable_is_said_so(make):
    (held,) = summarise([make["evaluation"](reasons=("masked",))]).held
    assert "no result can be relied on" in held


def test_every_doubt_is_told(evaluations, trainings, make):
    bare = make["evaluation"]("bare", n=50, seed=3, budget="demo", eps=0.2, attacks=(), verdict=Verdict(reliable=True))
    doubts = "\n".join(summarise([*evaluations, bare], trainings).distrust)
    for part in (
        "UNRELIABLE: an unbounded attack leaves 59.0 % standing; the black-box",
        "budgets (normal and demo)", "numbers of images (n = 360 and n = 50)", "threats (linf 0.1 and linf 0.2)",
        "seeds (0 and 3)", "No check of trust was recorded for bare (pgd-at)", "No attack was run on bare",
        "Not checked: random restarts agree", "wider than 10 points for bare (pgd-at) (n from 50)",
        "Training causaladv-m: stopped early: time limit.",
    ):  # fmt: skip
        assert part in doubts, part


def test_impossible_and_missing_accuracies_are_told(make):
    above = make["evaluation"]("above", robust_accuracy=0.99)
    nan = make["evaluation"]("nan", robust_accuracy=math.nan, robust_interval=(math.nan, math.nan))
    doubts = "\n".join(summarise([above, nan]).distrust)
    assert "above (pgd-at): robust accuracy above clean accuracy is impossible" in doubts
    assert "nan (pgd-at): an accuracy is not a number" in doubts
    assert "wider than 10 points for nan" in doubts


def test_equal_names_with_other_content_are_not_comparable(make):
    pair = [make["evaluation"]("a"), make["evaluation"]("b", data_digest="0" * 64)]
    assert len(groups(pair)) == 2
    assert any("not the same content" in line for line in summarise(pair).distrust)


def test_a_faultless_record_leaves_no_doubt(make):
    checks = tuple(check for check in make["evaluation"]().verdict.checks if check.passed)
    record = make["evaluation"](n=5000, verdict=Verdict(reliable=True, checks=checks))
    assert summarise([record]).distrust == ()
