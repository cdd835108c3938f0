"""Studies: what is left is done once, what was interrupted goes on, what does not belong is refused."""

from __future__ import annotations

import json
import os
import shutil
import signal

import pytest

from deconfound.recipes import studying
from deconfound.recipes.stopping import Stopped
from deconfound.recipes.studying import study
from deconfound.recipes.training import train
from deconfound.records import EvaluationRecord, StudyRecord, TrainingRecord
from deconfound.store import held
from jobs import WEIGHTS, Told, contents, data_module, split
from small_study import DEFINITION, TINY, lightly, refused

NAMES = ["standard-0", "standard-1", "pgd-at-0", "pgd-at-1"]
ONE = DEFINITION | {"runs": [{"recipe": "standard"}], "judge": {"all": [{"suite": "pgd-2", "n": 30}]}}


@pytest.fixture(scope="module", autouse=True)
def _light():
    """Neither checks nor curve, which take most of the time of so small an evaluation."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(studying, "evaluate_target", lightly)
        yield


@pytest.fixture(autouse=True)
def _no_page(monkeypatch):
    """The page is drawn once, by the finished study, which is made before this."""
    monkeypatch.setattr(studying, "render", lambda *_, **__: "page")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished study; not to be written to."""
    out = tmp_path_factory.mktemp("studies") / "tiny"
    return study(DEFINITION, out=out), out


@pytest.fixture
def copy(finished, tmp_path):
    return shutil.copytree(finished[1], tmp_path / "copy")


class TestWork:
    def test_everything_is_trained_judged_and_written(self, finished):
        found, out = finished
        assert sorted(path.name for path in out.iterdir()) == sorted([*NAMES, "report.html", "study.csv", "study.json"])
        for name in NAMES:
            files = {path.name for path in (out / name).iterdir()}
            assert {"record.json", "quick-10.json", "pgd-2-30.json"} <= files
            assert ".lock" not in files
        assert StudyRecord.read(out / "study.json") == found.record
        assert [run.folder for run in found.record.runs] == NAMES
        assert found.record.missing == ()
        assert {(t.method, t.control, t.seed) for t in found.record.tests} == {
            ("pgd-at", "standard", 0), ("pgd-at", "standard", 1)
        }  # fmt: skip
        assert "outcomes" not in (out / "study.json").read_text()
        assert found.record.runs[2].settings["recipe"] == "pgd-at"
        assert "data" not in found.record.runs[2].settings

    def test_what_is_done_is_left_alone(self, copy):
        before, told = contents(copy), Told()
        again = study(DEFINITION, out=copy, monitor=told)
        after = contents(copy)
        assert told.messages == []
        assert {name for name in before if after[name] != before[name]} <= {"study.json", "report.html"}
        assert again.record == StudyRecord.read(copy / "study.json")

    def test_the_table_alone_is_that_of_the_whole_study(self, finished, copy):
        (copy / "pgd-at-1" / "quick-10.json").unlink()
        found = study(DEFINITION, out=copy, part="table", only=["standard"])
        assert len(found.record.runs) == 4
        assert found.record.missing == ("pgd-at-1: training done, quick-10 left, pgd-2-30 done",)
        tests = [(one.question, one.seed) for one in found.record.tests]
        assert sorted(tests) == [("pgd-2", 0), ("pgd-2", 1), ("quick", 0)]

    def test_parts_seeds_and_names_select_the_work(self, tmp_path):
        options = {"out": tmp_path, "only": ["standard"], "seeds": [1]}
        found = study(DEFINITION, part="train", **options)
        assert found.record is None
        assert [path.name for path in tmp_path.iterdir()] == ["standard-1"]
        assert [str(one) for one in found.status][1] == "standard-1: training done, quick-10 left, pgd-2-30 left"
        found = study(DEFINITION, part="judge", **options)
        assert [one.complete for one in found.status] == [False, True, False, False]
        assert study(DEFINITION, part="judge", out=tmp_path, only=["pgd-at"]).record is None
        assert [path.name for path in tmp_path.iterdir()] == ["standard-1"]

    def test_a_dry_run_writes_nothing(self, tmp_path, copy):
        found = study(DEFINITION, out=tmp_path / "new", dry_run=True)
        assert not (tmp_path / "new").exists()
        assert str(found.status[0]) == "standard-0: training left, quick-10 left, pgd-2-30 left"
        before = contents(copy)
        assert all(one.complete for one in study(DEFINITION, out=copy, dry_run=True).status)
        assert contents(copy) == before

    def test_a_diverged_run_does_not_end_the_study(self, tmp_path, monkeypatch):
        def diverges(recipe, **more):
            if recipe == "standard":
                raise FloatingPointError("the loss is nan")
            return train(recipe, **more)

        monkeypatch.setattr(studying, "train", diverges)
        spec = DEFINITION | {"runs": [{"recipe": "standard"}, {"recipe": "mixup", "control": "standard"}]}
        found = study(spec, out=tmp_path)
        assert found.failures == ("standard-0: the loss is nan",)
        assert found.record.missing[0] == "standard-0: the loss is nan"
        assert [run.name for run in found.record.runs] == ["mixup"]
        assert found.record.tests == ()


class TestTransfer:
    SPEC = ONE | {
        "judge": {"all": [{"suite": "pgd-2", "n": 30, "separate": True, "transfer": ["standard", "pgd-at"]}]},
        "runs": [{"recipe": "pgd-at"}, {"recipe": "standard", "seeds": [1, 0]}, {"recipe": "mixup", "seeds": [0, 1]}],
    }

    def test_each_source_is_a_column_of_the_others(self, finished, tmp_path):
        for name in ("pgd-at-0", "standard-0", "standard-1"):
            shutil.copytree(finished[1] / name, tmp_path / name, ignore=lambda *_: ["quick-10.json", "pgd-2-30.json"])
        found = study(self.SPEC, out=tmp_path).record
        columns = {run.folder: [one.name for one in run.results[0].columns if "transfer" in one.name]
                   for run in found.runs}  # fmt: skip
        assert columns == {
            "pgd-at-0": ["transfer from standard-0"],
            "standard-0": ["transfer from pgd-at-0"],
            "standard-1": ["transfer from pgd-at-0"],  # of the first seed, where that method has no other
            "mixup-0": ["transfer from standard-0", "transfer from pgd-at-0"],
            "mixup-1": ["transfer from standard-1", "transfer from pgd-at-0"],
        }
        assert (tmp_path / "mixup-1" / "pgd-2-separate-transfer-30.json").is_file()

    def test_a_judgement_waits_for_its_sources(self, tmp_path):
        told = Told()
        found = study(self.SPEC, out=tmp_path, only=["mixup"], seeds=[0], monitor=told)
        line = "mixup-0: pgd-2-separate-transfer-30 takes images of standard-0, which is not trained here; left"
        assert line in told.messages
        assert str(found.status[3]) == "mixup-0: training done, pgd-2-separate-transfer-30 left"


class TestInterruptions:
    def test_a_stopped_training_goes_on_to_the_same_bytes(self, finished, tmp_path):
        class Impatient(Told):
            def start(self, task, total, done=0):
                os.kill(os.getpid(), signal.SIGTERM)

        with pytest.raises(Stopped, match=r"^standard-0: stopped, saved; the same command goes on$") as caught:
            study(ONE, out=tmp_path, monitor=Impatient())
        assert caught.value.signal == signal.SIGTERM
        assert str(study(ONE, out=tmp_path, dry_run=True).status[0]) == "standard-0: training begun, pgd-2-30 left"
        found = study(ONE, out=tmp_path)
        assert TrainingRecord.read(tmp_path / "standard-0" / "record.json").resumed == 1
        for name in WEIGHTS:
            assert (tmp_path / "standard-0" / name).read_bytes() == (finished[1] / "standard-0" / name).read_bytes()
        assert found.record.missing == ()

    def test_a_killed_judgement_goes_on_from_its_journal(self, finished, copy):
        class Killed(BaseException):
            pass

        class Impatient(Told):
            def update(self, done, values):
                super().update(done, values)
                if len(self.values) == 4:  # the second batch of the attack; three are clean images
                    raise Killed

        (copy / "standard-0" / "pgd-2-30.json").unlink()
        with pytest.raises(Killed):
            study(DEFINITION, out=copy, monitor=Impatient())
        assert str(study(DEFINITION, out=copy, dry_run=True).status[0]).endswith("pgd-2-30 begun")
        journal = copy / "standard-0" / "pgd-2-30.json.journal"
        kept = [json.loads(line)["piece"] for line in journal.read_text().splitlines()]
        assert kept == ["call", "clean/0", "clean/1", "clean/2", "attack/0/0"]
        study(DEFINITION, out=copy)
        assert not journal.exists()
        one, other = (EvaluationRecord.read(p / "standard-0" / "pgd-2-30.json") for p in (copy, finished[1]))
        assert one.outcomes == other.outcomes

    def test_a_run_that_another_process_works_on_is_passed_over(self, copy):
        shutil.rmtree(copy / "standard-0")
        (copy / "standard-1" / "quick-10.json").unlink()
        told = Told()
        with held(copy / "standard-0"), held(copy / "pgd-at-0"):
            found = study(DEFINITION, out=copy, monitor=told)
            assert list((copy / "standard-0").iterdir()) == [copy / "standard-0" / ".lock"]
        assert told.messages[0].startswith("standard-0: process ")
        assert told.messages[0].endswith(" works on it, passed over")
        assert [text for text in told.messages if "pgd-at-0" in text] == []  # there is nothing to do
        assert str(found.status[0]).endswith(" works on it")
        assert found.record.missing == (found.status[0].progress,)
        assert found.status[1].complete
        assert study(DEFINITION, out=copy).record.missing == ()


class TestAdoption:
    def test_several_runs_share_a_stage(self, tmp_path):
        runs = [
            {"recipe": "standard", "judge": False},
            {"recipe": "help", "stages": {"standard": "standard"}},
            {"recipe": "help", "label": "again", "stages": {"standard": "standard"}, "set": {"objective.gamma": 0}},
        ]
        out = tmp_path / "out"
        told = Told()
        found = study(ONE | {"runs": runs}, out=out, only=["help"], monitor=told)
        assert "help-0: builds on standard-0, which is not trained here; passed over" in told.messages
        assert found.record is None
        assert not list(out.glob("*"))
        found = study(ONE | {"runs": runs}, out=out)
        assert not list(out.glob("*/stages"))
        assert [run.folder for run in found.record.runs] == ["standard-0", "help-0", "again-0"]
        assert [len(run.results) for run in found.record.runs] == [0, 1, 1]
        uses = [TrainingRecord.read(out / name / "record.json").stages["standard"] for name in ("help-0", "again-0")]
        assert uses[0].model_digest == uses[1].model_digest
        assert str(tmp_path) not in found.record.to_json()
        assert found.record.runs[1].settings["stages"] == {"standard": "a finished run"}
        assert study(ONE | {"runs": runs}, out=out).record.runs == found.record.runs  # nothing is trained again

    def test_a_run_of_the_same_recipe_is_taken_as_it_is(self, finished, tmp_path):
        changes = [f"{key}={value}" for key, value in TINY.items()]
        train("standard", data="digits", out=tmp_path / "standard-0", changes=["seed=0", *changes])
        before = contents(tmp_path / "standard-0")
        study(DEFINITION, out=tmp_path, only=["standard"], seeds=[0])
        after = contents(tmp_path / "standard-0")
        assert {name for name in after if before.get(name) != after[name]} == {"quick-10.json", "pgd-2-30.json"}

    def test_another_recipe_is_refused_by_its_key(self, copy):
        before = contents(copy)
        rule = r"/standard-0: got 'lr=0.003'; expected the recipe of the study: lr=0.1; another folder \(--out\)"
        refused(rule, DEFINITION | {"set": TINY | {"lr": 0.1}}, out=copy)
        runs = [{"recipe": "pgd-at", "label": "standard"}]
        line = refused(r"/standard-0: got '", DEFINITION | {"runs": runs}, out=copy)
        assert "recipe=standard" in line
        assert "objective.name=" in line
        assert "recipe=pgd-at" in line.partition("; expected")[2]
        assert contents(copy) == before

    def test_other_data_are_refused(self, copy, monkeypatch):
        name = data_module(monkeypatch, "studies_other", train=split(classes=10), test=split(classes=10))
        changed = DEFINITION | {"set": TINY | {"family": "digits"}}
        refused(
            "/standard-0: data: got 'digits.train.'; expected a run on the study's data", changed, out=copy, data=name
        )

    def test_a_folder_of_something_else_is_refused(self, copy):
        shutil.rmtree(copy / "standard-1")
        (copy / "standard-1").mkdir()
        (copy / "standard-1" / "thesis.tex").write_text("x")
        refused("standard-1: out: got .* this one holds files that are not a run", out=copy)

    @pytest.mark.parametrize(
        ("change", "match"),
        [
            ({"n": 11}, "quick-10.json: n: got 11; expected 10, as the study asks"),
            ({"model_digest": "0" * 64}, "quick-10.json: model_digest: got '000"),
            ({"suite": "fast"}, "quick-10.json: suite: got 'fast'; expected quick"),
            ({"seed": 3}, "quick-10.json: seed: got 3; expected 0"),
            ({"data_digest": "1"}, "quick-10.json: data_digest: got '1'"),
            ({"threat": {"norm": "linf", "eps": 0.2}}, "quick-10.json: eps: got 0.2; expected 0.1"),
        ],
    )
    def test_records_that_answer_something_else_are_refused(self, copy, change, match):
        file = copy / "pgd-at-1" / "quick-10.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | change))
        refused(match, out=copy)


def test_other_bad_input(tmp_path, finished):
    refused("^only: got 'pgdat'; .*did you mean 'pgd-at'", out=tmp_path, only=["pgdat"])
    refused("^seeds: got 7; expected seeds of the study: 0, 1", out=tmp_path, seeds=[7])
    refused("^part: got 'trian'; .*did you mean 'train'", out=tmp_path, part="trian")
    refused("^study: got 'mnits'; .*did you mean 'mnist'", "mnits", out=tmp_path)
    refused("^study: got .* a readable YAML file", tmp_path / "none.yaml", out=tmp_path)
    refused("^out: got .* nothing is to be shown yet", out=tmp_path / "new", part="table")
    refused("^out: got .* a folder; a file of this name exists", out=finished[1] / "study.json")
    refused("^data: got 'digit'", DEFINITION | {"data": "digit"}, out=finished[1], dry_run=True)
