"""Comparing records: pairs are matched by example, counted by hand, and not tested where nothing is comparable."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from deconfound.functional.statistics import paired_interval
from deconfound.recipes.comparing import compare
from deconfound.records import AttackResult, AuditResult, ColumnResult, Spread, Threat
from evaluation_records import evaluation


def test_a_pair_is_counted_by_hand(write):
    """Of ten examples: six only the first holds, one only the second, two both, one neither; clean one against none."""
    first = evaluation("rrrrrrbrrc", defence="trades")
    second = evaluation("bbbbbcrrrc")
    found = compare([write("a.json", first), write("b.json", second)])
    (pair,) = found.pairs
    assert (pair.first, pair.second, pair.n, pair.not_compared) == ("small (trades)", "small (pgd-at)", 10, "")
    assert (pair.robust.only_first, pair.robust.only_second) == (6, 1)
    assert pair.robust.difference == pytest.approx(0.5)
    assert pair.robust.interval == paired_interval(6, 1, 10)
    assert pair.robust.p_value == pytest.approx(2 * (1 + 7) / 2**7)
    assert (pair.clean.only_first, pair.clean.only_second, pair.clean.p_value) == (1, 0, 1.0)
    assert pair.clean.difference == pytest.approx(0.1)
    assert found.warnings == ()
    assert (found.data, found.data_digest, found.adjust) == ("digits[test]", "d" * 64, "holm")


def test_rows_copy_what_the_records_say(write):
    first = evaluation("rrbc", defence="", model="a", seed=3, precision="64-true")
    second = evaluation("rrbb", model="b", reasons=("masked",))
    paths = [write("a.json", first), write("b.json", second)]
    found = compare(paths)
    for row, record, path in zip(found.evaluations, (first, second), paths, strict=True):
        assert row.file == str(path)
        for field in set(type(row).model_fields) - {"label", "file"}:
            assert getattr(row, field) == getattr(record, field), field


def test_examples_are_matched_by_index_and_not_by_place(write):
    """The second saw three of the first's examples, in another order."""
    first = evaluation("rbrbr", index=[10, 11, 12, 13, 14])
    second = evaluation("rbbb", index=[14, 12, 99, 10], defence="trades")
    found = compare([write("a.json", first), write("b.json", second)])
    (pair,) = found.pairs
    assert (pair.n, pair.robust.only_first, pair.robust.only_second) == (3, 2, 0)
    assert "small (pgd-at) and small (trades) are tested on the 3 examples that both saw, of n 5 and n 4." in (
        found.warnings
    )


def test_a_sample_of_the_others_examples_is_said_to_be_one(write):
    paths = [write("a.json", evaluation("rbrb", model="a")), write("b.json", evaluation("rr", model="b"))]
    assert compare(paths).warnings == (
        "a (pgd-at) and b (pgd-at) are tested on the 2 examples that both saw, of n 4 and n 2.",
    )


@given(st.lists(st.sampled_from([a + b for a in "rbc" for b in "rbc"]), min_size=1, max_size=60), st.randoms())
@settings(max_examples=60, deadline=None, derandomize=True)
def test_swapping_and_shuffling(tmp_path_factory, states, order: random.Random):
    """Swapped records mirror every figure; the order of a record's examples changes nothing."""
    folder = tmp_path_factory.mktemp("pair")
    one, other = evaluation("".join(s[0] for s in states)), evaluation("".join(s[1] for s in states), defence="x")
    mixed = list(other.outcomes)
    order.shuffle(mixed)
    (folder / "a.json").write_text(one.to_json())
    (folder / "b.json").write_text(other.model_copy(update={"outcomes": tuple(mixed)}).to_json())
    there = compare([folder / "a.json", folder / "b.json"]).pairs[0]
    back = compare([folder / "b.json", folder / "a.json"]).pairs[0]
    for name in ("robust", "clean"):
        this, that = getattr(there, name), getattr(back, name)
        assert (this.only_first, this.only_second) == (that.only_second, that.only_first)
        assert this.p_value == pytest.approx(that.p_value)
        assert this.difference == -that.difference
        assert this.interval == pytest.approx((-that.interval[1], -that.interval[0]), abs=1e-9)
    assert there.robust.difference == pytest.approx(one.robust_accuracy - other.robust_accuracy)
    assert there.clean.difference == pytest.approx(one.clean_accuracy - other.clean_accuracy)


def test_holm_is_over_the_tested_pairs_and_each_accuracy_apart(write):
    records = {
        "a": evaluation("r" * 12, model="a", defence=""),
        "b": evaluation("b" * 10 + "rr", model="b", defence=""),
        "c": evaluation("b" * 6 + "c" * 5 + "r", model="c", defence=""),
        "d": evaluation("c" * 12, model="d", defence="", suite="other"),
    }
    places = [write(f"{name}.json", record) for name, record in records.items()]
    found = compare(places)
    tested = {pair.first + pair.second: pair for pair in found.pairs if not pair.not_compared}
    assert set(tested) == {"ab", "ac", "bc"}
    exact = {"ab": (10, 0), "ac": (11, 0), "bc": (1, 0)}
    p = {name: stats.binomtest(max(counts), sum(counts)).pvalue for name, counts in exact.items()}
    for name, pair in tested.items():
        assert pair.robust.p_value == pytest.approx(p[name])
    assert tested["ac"].robust.adjusted_p_value == pytest.approx(3 * p["ac"])
    assert tested["ab"].robust.adjusted_p_value == pytest.approx(2 * p["ab"])
    assert tested["bc"].robust.adjusted_p_value == 1
    assert tested["ac"].clean.p_value == tested["bc"].clean.p_value == 2 / 2**5
    assert tested["ac"].clean.adjusted_p_value == tested["bc"].clean.adjusted_p_value == 3 * 2 / 2**5
    bare = compare(places, adjust="none")
    assert bare.adjust == "none"
    for pair, adjusted in zip(bare.pairs, found.pairs, strict=True):
        if pair.robust:
            assert pair.robust.adjusted_p_value is pair.clean.adjusted_p_value is None
            assert pair.robust.p_value == adjusted.robust.p_value


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"suite": "standard"}, "suite quick against standard"),
        ({"budget": "full"}, "budget normal against full"),
        ({"threat": Threat(norm="linf", eps=8 / 255)}, "threat linf 0.1 against linf 8/255"),
        ({"threat": Threat(norm="l2", eps=0.1)}, "threat linf 0.1 against l2 0.1"),
        (
            {"threat": Threat(norm="linf", eps=0.1, box=(-1.0, 1.0))},
            "threat linf 0.1 against linf 0.1 in [-1, 1]",
        ),
        (
            {"threat": Threat(norm="linf", eps=0.1000001)},
            "threat linf 0.1 (eps 0.1) against linf 0.1 (eps 0.1000001)",
        ),
        ({"suite": "standard", "budget": "demo"}, "suite quick against standard and budget normal against demo"),
        ({"index": range(50, 54)}, "no example in common (n 4 and n 4)"),
        ({"outcomes": ()}, "no example in common (n 4 and n 4)"),
    ],
)
def test_what_was_asked_differently_is_not_tested(write, changes, reason):
    paths = [write("a.json", evaluation("rrbc", model="a")), write("b.json", evaluation("rbbc", model="b", **changes))]
    found = compare(paths)
    (pair,) = found.pairs
    assert pair.not_compared == reason
    assert (pair.n, pair.robust, pair.clean) == (0, None, None)
    assert found.warnings == ()


def test_records_that_disagree_on_labels_are_not_tested(write):
    odd = evaluation("rr", model="b")
    odd = odd.model_copy(update={"outcomes": (odd.outcomes[0], odd.outcomes[1].model_copy(update={"label": 0}))})
    (pair,) = compare([write("a.json", evaluation("rr", model="a")), write("b.json", odd)]).pairs
    assert pair.not_compared == "the records disagree on the label of example 1"


@pytest.mark.parametrize(
    "changes",
    [{"seed": 5}, {"precision": "64-true"}, {"notes": ("x",)}, {"threat": Threat(norm="linf", eps=0.1 + 1e-16)}],
)
def test_a_seed_a_precision_or_rounding_does_not_keep_a_pair_apart(write, changes):
    (pair,) = compare([write("a.json", evaluation("rb")), write("b.json", evaluation("rb", **changes))]).pairs
    assert pair.n == 2


def test_unreliable_verdicts_and_other_attacks_are_warned_of(write):
    stronger = AttackResult(
        name="pgd", settings={"steps": 99}, attacked=2, survivors=1, seconds=1.0, forwards=1, backwards=1
    )
    bad = evaluation("rb", model="b", reasons=("zero gradients", "flat"), attacks=(stronger,))
    found = compare([write("a.json", evaluation("rb", model="a")), write("b.json", bad)])
    assert found.warnings == (
        "b (pgd-at): robust accuracy 50.0 % is UNRELIABLE: zero gradients; flat.",
        "a (pgd-at) and b (pgd-at) met different attacks or settings under the suite quick.",
    )
    assert found.pairs[0].robust is not None


def test_attacks_that_ran_by_themselves_are_attacks_too(write):
    def alone(steps, name="pgd"):
        column = ColumnResult(
            name=name,
            group="alone",
            threat="linf 0.1",
            settings={"steps": steps},
            n=2,
            accuracy=0.5,
            interval=(0.1, 0.9),
        )
        return evaluation("rb", model=f"{name}-{steps}", attacks=(), columns=(column,))

    line = "a (pgd-at) and b (pgd-at) met different attacks or settings under the suite quick."
    for other, said in ((alone(20), ()), (alone(40), (line,)), (alone(20, "square"), (line,))):
        one, two = (record.model_copy(update={"model": name}) for record, name in ((alone(20), "a"), (other, "b")))
        assert compare([write("a.json", one), write("b.json", two)]).warnings == said


def test_judges_that_differ_are_said(write):
    def drawn(draws, name):
        judge = {"kind": "majority", "draws": draws}
        spread = Spread(judge=judge, clean=(1.0,) * 5, robust=(0.5,) * 5, clean_deviation=0.0, robust_deviation=0.0)
        return evaluation("rb", model=name, spread=spread)

    for draws, lines in ((9, 2), (1, 3)):
        found = compare([write("a.json", drawn(9, "a")), write("b.json", drawn(draws, "b"))]).warnings
        assert len(found) == lines
    assert found[-1].startswith("a (pgd-at) and b (pgd-at) were judged differently: majority of 9 draws, 5 seeds and")


def test_audits_and_random_judges_are_said(write):
    partial = AuditResult(survivors=40, sampled=10, fell=0, complete=False, bound=0.0512)
    whole = partial.model_copy(update={"sampled": 40, "complete": True, "bound": 0.0})
    spread = Spread(judge={}, clean=(1.0,) * 5, robust=(0.5,) * 5, clean_deviation=0.0, robust_deviation=0.0)
    records = evaluation("rb", model="a", audit=partial), evaluation("rr", model="b", audit=whole, spread=spread)
    found = compare([write(f"{i}.json", record) for i, record in enumerate(records)])
    assert found.warnings == (
        "a (pgd-at): the slow attacks of the suite quick saw 10 of 40 survivors; they could have broken at most 5.1 %"
        " of all examples besides (95 % confidence).",
        "b (pgd-at): accuracies are means over 5 seeds of a random judge, pairs count its majority.",
    )
