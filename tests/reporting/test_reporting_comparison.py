"""A comparison on the terminal: every figure with its context at 80 columns, doubts beside what they touch."""

from __future__ import annotations

import io
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from deconfound.records import ComparedEvaluation, Comparison, PairedDifference, PairedTest, Threat, Verdict
from deconfound.reporting.comparison import comparison_view, letter, p_text, points


def shown(comparison, width=80):
    stream = io.StringIO()
    Console(file=stream, width=width, no_color=True, force_terminal=False).print(comparison_view(comparison))
    return stream.getvalue()


def flat(text):
    return " ".join(text.split())


def row(label, **changes):
    fields = {
        "label": label, "file": f"{label}.json", "model": "small", "model_digest": "m",
        "threat": Threat(norm="linf", eps=8 / 255), "suite": "standard", "budget": "normal", "n": 360, "seed": 0,
        "precision": "32-true", "clean_accuracy": 0.972, "clean_interval": (0.950, 0.985), "robust_accuracy": 0.714,
        "robust_interval": (0.665, 0.758), "verdict": Verdict(reliable=True),
    }  # fmt: skip
    return ComparedEvaluation(**(fields | changes))


ROBUST = PairedDifference(
    only_first=34,
    only_second=12,
    difference=0.0611,
    interval=(0.0229, 0.1002),
    p_value=0.00164,
    adjusted_p_value=0.0033,
)
CLEAN = PairedDifference(
    only_first=3, only_second=5, difference=-0.0056, interval=(-0.0231, 0.0112), p_value=0.7266, adjusted_p_value=1.0
)


def comparison(*rows, pairs=None, **changes):
    rows = rows or (row("small (trades)"), row("small (pgd-at)"))
    pair = PairedTest(first=rows[0].label, second=rows[1].label, n=359, robust=ROBUST, clean=CLEAN)
    fields = {"data": "digits[test]", "data_digest": "d", "evaluations": rows, "pairs": pairs or (pair,)}
    return Comparison(**(fields | changes))


def test_everything_is_there_at_80_columns():
    out = shown(comparison())
    assert max(map(len, out.splitlines())) <= 80
    title = "digits[test], linf 8/255, suite standard, budget normal, n 360, seed 0, precision 32-true"
    assert title in flat(out)
    for part in ("71.4 %", "[66.5, 75.8]", "97.2 %", "[95.0, 98.5]", "reliable", "adjusted over 1 pair (Holm)"):
        assert part in flat(out), part
    lines = [flat(line) for line in out.splitlines()]
    assert "A - B robust 359 34 12 +6.1 [+2.3, +10.0] 0.002 0.003" in lines
    assert "clean 359 3 5 -0.6 [-2.3, +1.1] 0.727 1.000" in lines
    assert any(line.startswith("A small (trades)") for line in lines)
    assert any(line.startswith("B small (pgd-at)") for line in lines)
    assert "UNRELIABLE" not in out
    assert "warning" not in out


def test_without_adjustment_there_is_no_such_column():
    bare = ROBUST.model_copy(update={"adjusted_p_value": None})
    pair = PairedTest(first="a", second="b", n=5, robust=bare, clean=bare)
    out = shown(comparison(row("a"), row("b"), pairs=(pair,), adjust="none"))
    assert "Holm" not in out
    assert "A - B robust 5 34 12 +6.1 [+2.3, +10.0] 0.002" in [flat(line) for line in out.splitlines()]


def test_facts_that_differ_stand_in_the_rows():
    out = shown(comparison(row("a", n=50, seed=7), row("b", suite="fast", budget="demo", precision="64-true")))
    assert max(map(len, out.splitlines())) <= 80
    for part in ("n 50", "n 360", "seed 7", "suite fast", "suite standard", "budget demo", "precision 64-true"):
        assert part in out
    title = flat(out).partition("model")[0]
    assert "linf 8/255" in title
    assert "n 360" not in title


def test_a_pair_that_is_not_compared_says_why():
    pair = PairedTest(first="a", second="b", not_compared="suite fast against standard")
    out = shown(comparison(row("a", suite="fast"), row("b"), pairs=(pair,)), 120)
    assert "A - B not compared: suite fast against standard" in [flat(line) for line in out.splitlines()]
    assert "adjusted over" not in out


def test_doubt_stands_wherever_the_robust_accuracy_is_used():
    doubted = row("b", verdict=Verdict(reliable=False, reasons=("gradients vanish",)))
    out = shown(comparison(row("a"), doubted, warnings=("b: robust accuracy 71.4 % is UNRELIABLE: gradients vanish.",)))
    assert flat(out).count("UNRELIABLE: gradients vanish") == 3
    assert "B UNRELIABLE: gradients vanish" in flat(out)
    assert "warning: b: robust accuracy 71.4 % is UNRELIABLE" in flat(out)
    robust, clean = out.split(" clean ")[-2:]
    assert "B UNRELIABLE" in robust
    assert "UNRELIABLE" not in clean.partition("warning")[0]


def test_names_carry_neither_markup_nor_control_codes():
    out = shown(comparison(row("[red]x[/red]\x1b[2J"), row("b\r", suite="[/]"), warnings=("[bold]\x1b[2J",)))
    assert "[red]x[/red]" in flat(out)
    assert "[bold]" in out
    assert not {"\x1b", "\r"} & set(out)


def test_many_long_names_at_80_columns():
    rows = [row(f"{'network_' * 12}{i}", n=10_000 + i, seed=i) for i in range(28)]
    pairs = [
        PairedTest(first=a.label, second=b.label, n=10_000, robust=ROBUST, clean=CLEAN)
        for a, b in itertools.pairwise(rows)
    ]
    out = shown(comparison(*rows, pairs=tuple(pairs)))
    assert max(map(len, out.splitlines())) <= 80
    assert "AA - AB" in out
    assert "…" not in out


def test_ascii_terminals_get_the_numbers_too():
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii", errors="strict")
    Console(file=stream, width=80).print(comparison_view(comparison()))
    stream.flush()
    assert b"+6.1 [+2.3, +10.0]" in stream.buffer.getvalue()


@pytest.mark.parametrize(
    ("p", "text"), [(0.0, "<0.001"), (0.00099, "<0.001"), (0.001, "0.001"), (1.0, "1.000"), (None, "")]
)
def test_p_values(p, text):
    assert p_text(p) == text


@given(st.floats(-1, 1))
def test_points_are_signed_and_within_half_a_tenth(share):
    assert abs(float(points(share)) - 100 * share) <= 0.05 + 1e-9
    assert points(share)[0] in "+-"
    assert points(share) != "-0.0"


@given(st.integers(0, 2000))
def test_letters_are_unique_and_in_order(place):
    assert (len(letter(place)), letter(place)) < (len(letter(place + 1)), letter(place + 1))
