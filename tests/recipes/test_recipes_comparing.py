"""Comparing records: pairs are matched by example, counted by hand, and not tested where nothing is comparable."""

from __future__ import annotations

import itertools
import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

import deconfound
from deconfound.errors import InputError
from deconfound.functional.statistics import paired_interval, wilson_interval
from deconfound.recipes.comparing import compare
from deconfound.recipes.reporting import results_json
from deconfound.records import (
    AttackResult,
    AuditResult,
    Comparison,
    EvaluationRecord,
    Machine,
    Outcome,
    Spread,
    Threat,
    TrainingRecord,
    Verdict,
)

MACHINE = Machine(device="cpu", processor="x", threads=1, versions={})
CLASSES = 3


def evaluation(states, index=None, reasons=(), **changes):
    """A record whose examples are r (robust), b (broken by an attack) or c (wrong when clean)."""
    index = range(len(states)) if index is None else index
    outcomes = tuple(
        Outcome(
            index=i,
            label=i % CLASSES,
            prediction=(i + (state == "c")) % CLASSES,
            broken_by={"r": None, "b": "pgd", "c": "clean"}[state],
            distance=None,
        )
        for i, state in zip(index, states, strict=True)
    )
    n, right, stands = len(states), len(states) - states.count("c"), states.count("r")
    attack = AttackResult(
        name="pgd", settings={"steps": 20}, attacked=right, survivors=stands, seconds=1.0, forwards=1, backwards=1
    )
    fields = {
        "model": "small", "model_digest": "m", "defence": "pgd-at", "data": "digits[test]", "data_digest": "d" * 64,
        "class_names": ("a", "b", "c"), "threat": Threat(norm="linf", eps=0.1), "suite": "quick", "n": n, "seed": 0,
        "clean_accuracy": right / n, "clean_interval": wilson_interval(right, n), "robust_accuracy": stands / n,
        "robust_interval": wilson_interval(stands, n), "verdict": Verdict(reliable=not reasons, reasons=reasons),
        "attacks": (attack,), "outcomes": outcomes, "forwards": 1, "backwards": 1, "seconds": 1.0, "cpu_seconds": 1.0,
        "machine": MACHINE,
    }  # fmt: skip
    return EvaluationRecord(**(fields | changes))


@pytest.fixture
def write(tmp_path):
    """``write("a.json", record)`` -> its path."""

    def writer(name, record):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(record if isinstance(record, str) else record.to_json())
        return path

    return writer


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


@pytest.mark.parametrize("changes", [{"seed": 5}, {"precision": "64-true"}, {"notes": ("x",)}])
def test_a_seed_or_a_precision_does_not_keep_a_pair_apart(write, changes):
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


class TestLabels:
    def labels(self, write, *named):
        places = [write(name, record) for name, record in named]
        found = compare(places)
        names = [row.label for row in found.evaluations]
        assert len(set(names)) == len(names)
        assert {pair.first for pair in found.pairs} | {pair.second for pair in found.pairs} == set(names)
        return names

    def test_model_and_defence(self, write):
        named = ("a.json", evaluation("rb")), ("b.json", evaluation("rb", defence="trades"))
        assert self.labels(write, *named) == ["small (pgd-at)", "small (trades)"]

    def test_the_files_name_where_that_is_ambiguous(self, write):
        named = (
            ("evaluate-0.1.json", evaluation("rb")),
            ("evaluate-0.2.json", evaluation("rr")),
            ("x.json", evaluation("rb", defence="trades")),
        )
        assert self.labels(write, *named) == [
            "small (pgd-at), evaluate-0.1", "small (pgd-at), evaluate-0.2", "small (trades)"
        ]  # fmt: skip

    def test_folders_where_the_name_is_ambiguous_too(self, write):
        named = ("r/s/e.json", evaluation("rb")), ("q/s/e.json", evaluation("rr")), ("q/t/e.json", evaluation("bb"))
        assert self.labels(write, *named) == ["small (pgd-at), r/s/e", "small (pgd-at), q/s/e", "small (pgd-at), t/e"]

    def test_names_that_look_like_labels(self, write):
        named = (
            ("e.json", evaluation("rb")),
            ("f.json", evaluation("rr")),
            ("g.json", evaluation("bb", model="small (pgd-at), e", defence="")),
        )
        assert len(self.labels(write, *named)) == 3

    def test_several_records_in_one_file(self, write, tmp_path):
        path = tmp_path / "results.json"
        path.write_text(results_json([evaluation("rb"), evaluation("rr")]))
        assert [row.label for row in compare([path]).evaluations] == [
            "small (pgd-at), results #1", "small (pgd-at), results #2"
        ]  # fmt: skip


def training():
    return TrainingRecord(
        recipe={}, recipe_digest="r", data="digits", data_digest="d", class_names=("a", "b"), seed=0, epochs_run=1,
        selected_epoch=None, selection="last", parameters=1, seconds=1.0, images_per_second=1.0, machine=MACHINE,
    )  # fmt: skip


def test_a_folder_gives_its_evaluations_once_and_nothing_else(write, tmp_path):
    """As a demo leaves them: each record in its run, and all of them in one file."""
    one, other = evaluation("rb"), evaluation("rr", defence="trades")
    write("demo/runs/a/evaluate.json", one)
    write("demo/runs/b/evaluate.json", other)
    write("demo/runs/a/record.json", training())
    write("demo/runs/a/junk.json", "{")
    write("demo/results.json", results_json([one, other]))
    found = compare([tmp_path / "demo"])
    assert [row.defence for row in found.evaluations] == ["pgd-at", "trades"]
    assert [Path(row.file).parent.name for row in compare([tmp_path / "demo/runs"]).evaluations] == ["a", "b"]
    assert compare([tmp_path / "demo/runs/b", tmp_path / "demo/runs/a"]).pairs[0].first == "small (trades)"


class TestRefusals:
    def refused(self, *places, **options):
        with pytest.raises(InputError) as caught:
            compare(places, **options)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    def test_different_data(self, write):
        a = write("a.json", evaluation("rb"))
        b = write("b.json", evaluation("rb", data="mnist[test]", data_digest="e" * 64))
        assert self.refused(a, b) == (
            f"{b}: data: got 'mnist[test] (digest eeeeeeeeeeee)'; "
            f"expected the data of {a}, digits[test] (digest dddddddddddd)"
        )

    @pytest.mark.parametrize("again", ["a.json", "./a.json", "link.json", ""])
    def test_the_same_file_twice(self, write, tmp_path, again):
        a = write("a.json", evaluation("rb"))
        (tmp_path / "link.json").symlink_to(a)
        line = self.refused(a, os.path.join(tmp_path, again))  # noqa: PTH118 (a path would drop the dot)
        assert line.endswith("; expected each file once; this one is given twice")

    def test_the_same_record_in_two_files(self, write):
        a, b = (write(name, evaluation("rb")) for name in ("a.json", "b.json"))
        assert self.refused(a, b) == f"compare: got '{b}'; expected each record once; {a} holds the same one"

    def test_fewer_than_two(self, write, tmp_path):
        a = write("a.json", evaluation("rb"))
        line = "expected at least two evaluation records (deconfound evaluate), not"
        assert self.refused(a) == f"compare: got '{a}'; {line} 1"
        (tmp_path / "empty").mkdir()
        assert self.refused(tmp_path / "empty").endswith(f"{line} 0")
        assert self.refused() == f"compare: got ''; {line} 0"

    def test_what_is_no_evaluation(self, write, tmp_path):
        a = write("a.json", evaluation("rb"))
        other = write("t.json", training())
        assert self.refused(a, other) == f"{other}: got 'training'; expected a record of kind 'evaluation'"
        newer = write("n.json", json.dumps(json.loads(a.read_text()) | {"schema_version": 99}))
        assert f"{newer}: schema_version: got 99; expected at most" in self.refused(a, newer)
        unknown = write("u.json", json.dumps(json.loads(a.read_text()) | {"novel": 1}))
        assert f"{unknown}: novel: got 1; expected " in self.refused(a, unknown)
        assert "unreadable JSON" in self.refused(a, write("j.json", "{"))
        own = write("c.json", compare([a, write("b.json", evaluation("rr"))]))
        assert self.refused(a, own) == f"{own}: got 'comparison'; expected a record of kind 'evaluation'"
        absent = tmp_path / "absent.json"
        assert self.refused(a, absent) == f"compare: got '{absent}'; expected a folder or file that exists"

    def test_an_adjustment_that_does_not_exist(self, write):
        a = write("a.json", evaluation("rb"))
        assert self.refused(a, adjust="hom") == ("adjust: got 'hom'; expected one of holm, none (did you mean 'holm'?)")

    def test_one_path_is_not_a_list_of_letters(self):
        with pytest.raises(InputError, match=r"^compare: got 'runs'; expected a list of files or folders$"):
            compare("runs")


class TestOut:
    @pytest.fixture
    def places(self, write):
        return [write("runs/a.json", evaluation("rb")), write("runs/b.json", evaluation("rr", defence="trades"))]

    def test_the_file_is_the_record(self, places, tmp_path):
        out = tmp_path / "deep" / "comparison.json"
        found = compare(places, out=out)
        assert Comparison.read(out) == found
        assert out.read_text() == found.to_json()

    def test_nothing_is_replaced_unasked(self, places, tmp_path):
        out = tmp_path / "runs" / "comparison.json"
        compare([tmp_path / "runs"], out=out)
        with pytest.raises(InputError, match=r"^out: got .* a new file; one lies here \(--overwrite replaces it\)$"):
            compare([tmp_path / "runs"], out=out, adjust="none")
        assert Comparison.read(out).adjust == "holm"
        compare([tmp_path / "runs"], out=out, adjust="none", overwrite=True)
        assert Comparison.read(out).adjust == "none"

    def test_a_record_that_is_compared_is_never_replaced(self, places, tmp_path):
        before = [place.read_bytes() for place in places]
        for place, given_places in itertools.product(places, (places, [tmp_path / "runs"])):
            with pytest.raises(InputError, match=r"^out: got .* another file than those that are compared$"):
                compare(given_places, out=place, overwrite=True)
        with pytest.raises(InputError, match=r"^out: got .* a file; a folder lies here$"):
            compare(places, out=tmp_path, overwrite=True)
        assert [place.read_bytes() for place in places] == before


def test_python_has_it_by_name_and_without_torch(write):
    assert deconfound.compare is compare
    assert deconfound.Comparison is Comparison
    places = [str(write("a.json", evaluation("rb"))), str(write("b.json", evaluation("rr")))]
    script = (
        "import sys, deconfound; found = deconfound.compare(sys.argv[1:]); from deconfound.reporting import"
        " comparison_view; comparison_view(found); sys.exit('torch' in sys.modules or len(found.pairs) != 1)"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(deconfound.__file__).parents[1])}
    subprocess.run([sys.executable, "-c", script, *places], check=True, env=environment)
