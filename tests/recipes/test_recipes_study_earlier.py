"""Records of studies made elsewhere: what they have is done, their tests stand, what does not belong is refused."""

from __future__ import annotations

import json
import shutil

import pytest
import yaml

from deconfound.cli import main
from deconfound.recipes import study_earlier, studying
from deconfound.recipes.studying import study
from deconfound.records import StudyRecord
from jobs import Told
from small_study import DEFINITION, TINY, lightly, refused

HALF = DEFINITION | {
    "judge": {"all": [{"suite": "pgd-2", "n": 30}]},
    "runs": [run | {"seeds": [0]} for run in DEFINITION["runs"]],
}
WHOLE = HALF | {"runs": DEFINITION["runs"]}


@pytest.fixture(scope="module", autouse=True)
def _light():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(studying, "evaluate_target", lightly)
        yield


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Everything in one folder; not to be written to."""
    out = tmp_path_factory.mktemp("studies") / "whole"
    return study(WHOLE, out=out), out


@pytest.fixture
def half(whole, tmp_path):
    """The record of the first seed alone."""
    out = tmp_path / "half"
    for name in ("standard-0", "pgd-at-0"):
        shutil.copytree(whole[1] / name, out / name)
    study(HALF, out=out, part="table")
    return out / "study.json"


def changed(file, change):
    """The record, changed as plain data."""
    plain = json.loads(file.read_text())
    change(plain)
    file.write_text(json.dumps(plain))
    return file


def without_examples(plain):
    for run in plain["runs"]:
        for one in run["results"]:
            del one["examples"], one["digests"]["attacks"]


def told_by(spec, **arguments):
    told = Told()
    return study(spec, monitor=told, **arguments), told.messages


def same(one: StudyRecord, other: StudyRecord):
    return all(getattr(one, what) == getattr(other, what) for what in ("means", "tests", "differences", "missing"))


@pytest.mark.parametrize("change", [lambda plain: None, without_examples], ids=["as it is", "without examples"])
def test_two_halves_make_the_whole(whole, half, tmp_path, change):
    """Means, tests with Holm's p over all of them, differences: those of a study that was never apart."""
    found, _ = whole
    rest = tmp_path / "rest"
    for name in ("standard-1", "pgd-at-1"):
        shutil.copytree(whole[1] / name, rest / name)
    joined, messages = told_by(WHOLE, out=rest, earlier=[changed(half, change)])
    assert messages == []
    assert same(joined.record, found.record)
    assert [run.folder for run in joined.record.runs] == [run.folder for run in found.record.runs]
    assert sorted(path.name for path in rest.iterdir() if path.is_dir()) == ["pgd-at-1", "standard-1"]


def test_a_whole_record_is_a_whole_study(whole, tmp_path):
    found, out = whole
    joined = study(WHOLE, out=tmp_path / "new", earlier=[out / "study.json"])
    assert joined.record.runs == found.record.runs
    assert all(one.complete for one in joined.status)
    assert [path.name for path in joined.files] == ["study.json", "study.csv", "report.html"]
    assert "pgd-at" in (tmp_path / "new" / "report.html").read_text()


def test_a_control_of_a_record_is_a_control_here(whole, half, tmp_path):
    """A method that is judged here is tested against a control that was judged elsewhere, example by example."""
    out = tmp_path / "out"
    shutil.copytree(whole[1] / "pgd-at-0", out / "pgd-at-0")
    half = changed(half, lambda plain: plain.update(runs=[run for run in plain["runs"] if run["name"] == "standard"]))
    joined = study(HALF, out=out, earlier=[half])
    expected = next(test for test in whole[0].record.tests if test.seed == 0)
    assert joined.record.tests[0].test.robust.interval == expected.test.robust.interval
    assert joined.record.tests[0].same_attacks


def test_results_of_the_same_weights_are_not_made_again(whole, half, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(whole[1] / "standard-0", out / "standard-0")
    (out / "standard-0" / "pgd-2-30.json").unlink()
    joined, messages = told_by(HALF, out=out, earlier=[half])
    assert messages == []
    assert joined.record.runs[0].results == whole[0].record.runs[0].results


def test_results_of_other_weights_are_made_again(whole, half, tmp_path):
    """Neither the record's accuracy nor its tests are about the weights that lie here."""

    def other(plain):
        without_examples(plain)
        for run in plain["runs"]:
            for one in run["results"]:
                one["digests"]["model"] = "of other weights"
                one["robust_accuracy"] = 0.123

    out = tmp_path / "out"
    shutil.copytree(whole[1] / "standard-0", out / "standard-0")
    (out / "standard-0" / "pgd-2-30.json").unlink()
    joined, messages = told_by(HALF, out=out, earlier=[changed(half, other)])
    assert messages == ["standard-0: pgd-2-30"]
    assert joined.record.runs[0].results[0].robust_accuracy == whole[0].record.runs[0].results[0].robust_accuracy
    assert joined.record.runs[1].results[0].robust_accuracy == 0.123
    (test,) = joined.record.tests  # the record's is of two other results
    assert test.test.not_compared == "the record of pgd-at-0 does not say which examples stood"
    assert joined.record.differences == ()


def test_what_a_record_lacks_is_left(half, tmp_path):
    asked = HALF | {"judge": {"all": [{"suite": "pgd-2", "n": 30}, {"suite": "pgd-1", "n": 30}]}}
    found = study(asked, out=tmp_path / "out", earlier=[half], dry_run=True)
    assert str(found.status[0]) == "standard-0: training elsewhere, pgd-2-30 done, pgd-1-30 left"
    table = study(asked, out=tmp_path / "out", earlier=[half], part="table").record
    assert [[one.judgement for one in run.results] for run in table.runs] == [["pgd-2-30"], ["pgd-2-30"]]
    assert table.missing == tuple(one.progress for one in found.status)


def test_weights_that_lie_here_choose_among_records(whole, half, tmp_path):
    """Whatever the order of the files."""
    out, other = tmp_path / "out", tmp_path / "other.json"
    shutil.copytree(whole[1] / "standard-0", out / "standard-0")
    (out / "standard-0" / "pgd-2-30.json").unlink()
    shutil.copy(half, other)

    def of_others(plain):
        for run in plain["runs"]:
            for one in run["results"]:
                one["digests"]["model"] = "of other weights"

    changed(other, of_others)
    for files in ([half, other], [other, half]):
        found = study(HALF, out=out, earlier=files, dry_run=True)
        assert str(found.status[0]) == "standard-0: training done, pgd-2-30 done"


def test_a_whole_record_leaves_nothing_of_a_run_that_was_begun(half, tmp_path):
    (tmp_path / "out" / "standard-0").mkdir(parents=True)
    recipe = json.loads(half.read_text())["runs"][0]["settings"] | {"data": "digits"}
    (tmp_path / "out" / "standard-0" / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    joined, messages = told_by(HALF, out=tmp_path / "out", earlier=half)
    assert messages == []
    assert all(one.complete for one in joined.status)


def test_data_of_what_is_not_asked_are_not_read(whole, half, tmp_path):
    """Neither those of other methods, nor in a dry run."""
    found = study(HALF, out=tmp_path / "o", earlier=half, data="/nowhere/digits", dry_run=True)
    assert all(one.complete for one in found.status)


def test_several_data_sets_with_limits(tmp_path):
    """Their sources may have one name, and other content."""
    spec = HALF | {"data": {"all": "digits", "few": "digits:train=600"}, "runs": [{"recipe": "standard"}]}
    first = study(spec, out=tmp_path / "first")
    again, messages = told_by(spec, out=tmp_path / "again", earlier=first.files[0])
    assert messages == []
    assert again.record.runs == first.record.runs
    swapped = spec | {"data": {"all": "digits:train=600", "few": "digits"}}
    refused("earlier: standard-all-0: data: .*content differs", swapped, out=tmp_path / "o", earlier=first.files[0])


def test_analyses_alone(tmp_path):
    """They are taken, and their table is written."""
    spec = HALF | {"data": "digits+patch:rho=0.9", "analyze": {"all": [{"kind": "reliance", "n": 20}]}}
    spec |= {"runs": [{"recipe": "standard"}]}
    first = study(spec, out=tmp_path / "first")
    again, messages = told_by(spec, out=tmp_path / "again", earlier=first.files[0])
    assert messages == []
    assert again.record.runs == first.record.runs
    assert (tmp_path / "again" / "analyses.csv").read_text() == (tmp_path / "first" / "analyses.csv").read_text()
    other = spec | {"analyze": {"all": [{"kind": "reliance", "n": 20, "seed": 1}]}}
    assert [str(one) for one in study(other, out=tmp_path / "o", earlier=first.files[0], dry_run=True).status] == [
        "standard-0: training elsewhere, pgd-2-30 done, analyze-reliance-n20-seed1 left"
    ]


def test_what_builds_on_a_recorded_run_waits_for_its_weights(half, tmp_path):
    runs = [*HALF["runs"], {"recipe": "help", "stages": {"standard": "standard"}}]
    _, messages = told_by(HALF | {"runs": runs}, out=tmp_path / "out", earlier=[half])
    assert messages == ["help-0: builds on standard-0, which is not trained here; passed over"]


def test_records_of_the_same_run_add_up(whole, half, tmp_path):
    """The first one that has a result is taken."""
    second = tmp_path / "second.json"
    shutil.copy(half, second)

    def another(plain):
        for run in plain["runs"]:
            run["results"] = [one | {"robust_accuracy": 0.5} for one in run["results"]]
            run["results"].append(run["results"][0] | {"judgement": "pgd-1-30", "suite": "pgd-1"})

    asked = HALF | {"judge": {"all": [{"suite": "pgd-2", "n": 30}, {"suite": "pgd-1", "n": 30}]}}
    found = study(asked, out=tmp_path / "out", earlier=[half, changed(second, another)])
    first = found.record.runs[0].results
    assert [one.judgement for one in first] == ["pgd-2-30", "pgd-1-30"]
    assert first[0] == whole[0].record.runs[0].results[0]


class TestRefused:
    def test_no_study(self, whole, tmp_path):
        out = tmp_path / "out"
        refused("earlier: record: .*readable", HALF, out=out, earlier=[tmp_path / "nothing.json"])
        evaluation = whole[1] / "standard-0" / "pgd-2-30.json"
        refused("a record of kind 'study'", HALF, out=out, earlier=[evaluation])
        assert not out.exists()

    def test_another_study(self, half, tmp_path):
        runs = [{"recipe": "mixup"}]
        refused(
            "earlier: got 'tiny'; expected a record that has runs of this study",
            HALF | {"runs": runs},
            out=tmp_path / "o",
            earlier=[half],
        )

    def test_other_settings(self, half, tmp_path):
        other = HALF | {"set": TINY | {"epochs": 2}}
        line = refused("the recipe of the study: epochs=2", other, out=tmp_path / "o", earlier=[half])
        assert "earlier: standard-0: got 'epochs=1'" in line

    def test_other_data(self, whole, half, tmp_path):
        def other(plain):
            for run in plain["runs"]:
                run["data_digest"] = "of other images"

        changed(half, other)
        out = tmp_path / "out"
        refused("earlier: standard-0: data: .*content differs", HALF, out=out, earlier=[half])
        shutil.copytree(whole[1] / "standard-0", out / "standard-0")
        refused("earlier: standard-0: data: .*content differs", HALF, out=out, earlier=[half], part="table")

    def test_other_data_that_are_not_at_hand(self, whole, half, tmp_path, monkeypatch):
        """The runs that lie here say what their content is."""
        monkeypatch.setattr(study_earlier, "at_hand", lambda data: False)
        changed(half, lambda plain: [run.update(data_digest="of other images") for run in plain["runs"]])
        study(HALF, out=tmp_path / "new", earlier=half, part="table")
        out = tmp_path / "out"
        shutil.copytree(whole[1] / "pgd-at-0", out / "pgd-at-0")
        match = "earlier: standard-0: data: .*the other runs of the study saw"
        refused(match, HALF, out=out, earlier=half, part="table")

    def test_another_question(self, half, tmp_path):
        changes = {"n": 29, "seed": 3, "suite": "pgd-3", "budget": "demo"}
        for key, value in changes.items():
            shutil.copy(half, file := tmp_path / f"{key}.json")

            def change(plain, key=key, value=value):
                for run in plain["runs"]:
                    for one in run["results"]:
                        one.update({key: value, "examples": None})

            match = rf"earlier: standard-0: pgd-2-30: {key}: got '?{value}'?; expected"
            refused(match, HALF, out=tmp_path / "o", earlier=changed(file, change))

    def test_other_test_images(self, whole, tmp_path):
        """Where a judgement says no n, all test images are asked."""
        asked = HALF | {"judge": {"all": [{"suite": "pgd-2"}]}}
        few = study(asked | {"data": "digits:test=40"}, out=tmp_path / "few").files[0]
        refused("earlier: standard-0: pgd-2: n: got 40; expected 360", asked, out=tmp_path / "o", earlier=few)

    @pytest.mark.parametrize(
        ("change", "match"),
        [
            ({"indices": "a-b"}, "indices"),
            ({"indices": "29-0"}, "indices: got '29-0'; expected ranges of rising"),
            ({"indices": "0-14,0-14"}, "indices: .*none twice"),
            ({"indices": "0-30"}, "examples: got '0-30'; expected 30 examples"),
            ({"right": "zz"}, "right"),
            ({"stands": "f"}, "stands: got 'f'; expected 8 hexadecimal digits for 30 examples"),
        ],
    )
    def test_damaged_examples(self, half, tmp_path, change, match):
        def damaged(plain):
            plain["runs"][0]["results"][0]["examples"].update(change)

        line = refused(match, HALF, out=tmp_path / "o", earlier=changed(half, damaged))
        assert "runs.0.results.0" in line
        assert not (tmp_path / "o").exists()

    @pytest.mark.parametrize("name", ["model", "data", "attacks"])
    def test_a_digest_is_lacking(self, half, tmp_path, name):
        changed(half, lambda plain: plain["runs"][0]["results"][0]["digests"].pop(name))
        refused(f"digests: .*a digest of {name} too", HALF, out=tmp_path / "o", earlier=half)


def test_the_command(half, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(studying, "render", lambda *_, **__: "page")
    spec = tmp_path / "half.yaml"
    spec.write_text(yaml.safe_dump(HALF))
    assert main(["study", str(spec), "--out", str(tmp_path / "o"), "--earlier", str(half), "--table", "-q"]) == 0
    assert "pgd-at" in capsys.readouterr().out
    assert main(["study", str(spec), "--out", str(tmp_path / "o"), "--earlier", str(tmp_path / "no.json")]) == 2
    assert "earlier" in capsys.readouterr().err
