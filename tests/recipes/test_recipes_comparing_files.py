"""Comparing files: how records are named, found and refused, and where the comparison is written."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import deconfound
from deconfound.errors import InputError
from deconfound.recipes.comparing import compare
from deconfound.recipes.reporting import results_json
from deconfound.records import Comparison, TrainingRecord
from evaluation_records import MACHINE, evaluation


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
