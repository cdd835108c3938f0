"""Tables: the numbers are there at 80 columns, without colour, and never without their context."""

from __future__ import annotations

import io
import math
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

import deconfound.reporting
from deconfound.errors import InputError
from deconfound.records import Threat, Verdict
from deconfound.reporting import text
from deconfound.reporting.tables import evaluation_table, leaderboard_table, ordered
from deconfound.reporting.text import interval, percent


def shown(table, width: int = 80) -> str:
    stream = io.StringIO()
    Console(file=stream, width=width, no_color=True, force_terminal=False).print(table)
    return stream.getvalue()


def test_evaluation_says_everything_at_80_columns(make):
    record = make["evaluation"](reasons=("the unbounded attack fails",))
    out = shown(evaluation_table(record))
    assert max(map(len, out.splitlines())) <= 80
    for part in (
        "71.4 %", "[66.5, 75.8]", "97.2 %", "[95.0, 98.5]", "linf 0.1", "standard", "n 360", "seed 0", "UNRELIABLE",
        "the unbounded attack fails", "apgd-ce-100: 266 of 350", "square-5000: 257 of 259", "random restarts agree",
        "1 min 23 s", "1,234,567 forwards", "unbounded attack succeeds FAILED",
    ):  # fmt: skip
        assert part in out, part


def test_reliable_is_said_and_unreliable_is_not(make):
    out = shown(evaluation_table(make["evaluation"]()))
    assert "reliable" in out
    assert "UNRELIABLE" not in out


def test_leaderboard_ranks_reliable_results_first_and_shares_facts_in_the_title(evaluations):
    out = shown(leaderboard_table(evaluations))
    assert max(map(len, out.splitlines())) <= 80
    assert "digits, linf 0.1, suite standard, n 360, seed 0" in out.splitlines()[0]
    rows = [line for line in out.splitlines() if line.startswith(" small")]
    assert [row.split("(")[1].split(")")[0] for row in rows] == ["cafe", "causaladv-m", "pgd-at", "standard", "ciiv"]
    assert "UNRELIABLE: an unbounded" in rows[-1]
    assert "[82.2, 89.3]" in out


def test_leaderboard_shows_what_differs_in_its_own_column(evaluations, make):
    other = make["evaluation"]("m" * 200, n=50, eps=8 / 255, data="cifar10")
    out = shown(leaderboard_table([*evaluations, other]))
    assert max(map(len, out.splitlines())) <= 80
    for part in ("cifar10", "linf 8/255", "n 50", "n 360", "58.3, 82.5"):
        assert part in out
    assert "n 360" not in out.splitlines()[0]


def test_names_carry_neither_markup_nor_control_codes(make):
    out = shown(evaluation_table(make["evaluation"]("[red]x[/red]\x1b[2J", notes=("[/]", "a\rb"))))
    assert "[red]x[/red]" in out
    assert "\x1b" not in out
    assert "\r" not in out


def test_ascii_terminals_get_the_numbers_too(make):
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii", errors="replace")
    Console(file=stream, width=80).print(leaderboard_table([make["evaluation"]()]))
    stream.flush()
    assert b"[66.5, 75.8]" in stream.buffer.getvalue()


def test_no_record_is_an_input_error():
    with pytest.raises(InputError, match="at least one evaluation record"):
        leaderboard_table([])


def test_an_accuracy_that_is_no_number_comes_last_and_is_said(make):
    bad = make["evaluation"]("bad", robust_accuracy=math.nan, robust_interval=(math.nan, math.nan))
    good = make["evaluation"]("good", robust=0.0)
    assert [record.model for record in ordered([bad, good])] == ["good", "bad"]
    assert "n/a" in shown(leaderboard_table([bad]))


def test_missing_attacks_and_checks_are_said(make):
    out = shown(evaluation_table(make["evaluation"](attacks=(), verdict=Verdict(reliable=True))))
    assert "no attack was run" in out
    assert "no check of trust was recorded" in out


@given(st.floats(0, 1))
def test_percent_is_within_half_a_tenth(share):
    assert abs(float(percent(share).removesuffix(" %")) - 100 * share) <= 0.05 + 1e-9
    assert interval(share, share).count(percent(share).removesuffix(" %")) == 2


@given(st.text(), st.integers(3, 40))
def test_clean_and_short_give_one_printable_line(words, width):
    line = text.short(words, width)
    assert len(line) <= width
    assert line.isprintable()
    assert text.clean(text.clean(words)) == text.clean(words)


@given(st.lists(st.sampled_from(["a", "b", "a #1", "a #2"]), min_size=1, max_size=6))
def test_shortened_names_are_unique(names):
    assert len(set(text.shortened(names, 20))) == len(names)


def test_labels_use_what_tells_records_apart(make):
    record = make["evaluation"]
    pair = [record(seed=0), record(seed=1)]
    assert text.labels(pair) == ["small (pgd-at), seed 0", "small (pgd-at), seed 1"]
    assert text.labels([record(), record(eps=8 / 255)])[1] == "small (pgd-at), linf 8/255"
    assert text.labels([record(), record()]) == ["small (pgd-at) #1", "small (pgd-at) #2"]
    assert text.labels([record("pgd-at-small", "pgd-at")]) == ["pgd-at-small"]


def test_a_box_other_than_the_unit_one_is_said():
    assert text.threat_text(Threat(norm="l2", eps=0.5, box=(-1.0, 1.0))) == "l2 0.5 in [-1, 1]"


def test_classes_without_a_name_get_their_number():
    assert [text.class_name(("cat", " "), i) for i in (0, 1, 7, -1)] == ["cat", "class 1", "class 7", "class -1"]


def test_importing_the_room_is_light_and_needs_no_torch():
    script = (
        "import sys, deconfound.reporting as r; heavy = {'torch', 'matplotlib', 'rich', 'jinja2'};"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules); r.render, r.svg, r.leaderboard_table;"
        "assert callable(r.svg) and 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], check=True, env={"PYTHONPATH": ":".join(sys.path)})


def test_the_exported_names_exist():
    assert all(callable(getattr(deconfound.reporting, name)) for name in deconfound.reporting.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = deconfound.reporting.nothing
