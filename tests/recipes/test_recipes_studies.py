"""Studies: what is left is done once, what was interrupted goes on, what does not belong is refused."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import statistics
from dataclasses import replace

import pytest

import deconfound
from deconfound.errors import InputError
from deconfound.functional.statistics import holm, mcnemar, paired_interval, wilson_interval
from deconfound.recipes import study_file, study_plan, studying
from deconfound.recipes.stopping import Stopped
from deconfound.recipes.study_table import collected
from deconfound.recipes.studying import study
from deconfound.recipes.training import train
from deconfound.records import (
    AttackResult,
    EvaluationRecord,
    Machine,
    Outcome,
    StudyRecord,
    Threat,
    TrainingRecord,
    Verdict,
)
from deconfound.store import RunFolder, held
from jobs import WEIGHTS, Told, contents, data_module, split

TINY = {"epochs": 1, "steps": 1, "selection.steps": 1, "batch_size": 512}
DEFINITION = {
    "study": "tiny",
    "about": "Two methods.",
    "data": "digits",
    "set": TINY,
    "judge": {"deterministic": [{"suite": "quick", "n": 10}, {"suite": "pgd-2", "n": 30}]},
    "runs": [
        {"recipe": "standard", "seeds": [0, 1]},
        {"recipe": "pgd-at", "seeds": [0, 1], "control": "standard"},
    ],
}
NAMES = ["standard-0", "standard-1", "pgd-at-0", "pgd-at-1"]
ONE = DEFINITION | {"runs": [{"recipe": "standard"}], "judge": {"all": [{"suite": "pgd-2", "n": 30}]}}


def lightly(target, judging, **more):
    return original(target, replace(judging, checks=False, curve=False, batch_size=10), **more)


original = studying.evaluate_target


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


def refused(match, spec=DEFINITION, **arguments):
    with pytest.raises(InputError, match=match) as caught:
        study(spec, **arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


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
        line = "mixup-0: pgd-2-separate-transfer-30 takes images of standard-0, which is not finished; left"
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
        assert "help-0: builds on standard-0, which is not finished; passed over" in told.messages
        assert found.record is None
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


def bad(**changes):
    return DEFINITION | changes


def run(**changes):
    return bad(runs=[{"recipe": "standard"}, {"recipe": "trades"} | changes])


def judging(kind="deterministic", **judgement):
    return bad(judge={kind: [judgement]})


@pytest.mark.parametrize(
    ("spec", "match"),
    [
        (bad(run=[]), "study key: got 'run'; .*did you mean 'runs'"),
        ({key: value for key, value in DEFINITION.items() if key != "data"}, "study: data: got None; expected a value"),
        (bad(runs=[]), r"study: runs: got \[\]; expected at least one run"),
        (bad(runs="standard"), "study: runs: got 'standard'"),
        (bad(runs=["standard"]), r"study: runs\[0\]: got 'standard'; expected keys and values: recipe"),
        (bad(judge={}), "study: judge: got {}; expected at least one judgement"),
        (bad(judge={"deterministic": []}), "study: judge: got .* at least one judgement"),
        (bad(judge={"random": [{"suite": "rand"}]}), "study: judge: got 'random'; expected one of all, det"),
        (bad(judge={"all": {"suite": "rand"}}), "study: judge.all: got .* a list of judgements"),
        (bad(seeds=[-1]), "study: seeds.0: got -1; expected at least 0"),
        (
            bad(seeds=[], runs=[{"recipe": "standard"}]),
            r"study: runs\[0\]: seeds: got \[\]; expected at least one seed",
        ),
        (bad(set={"seed": 1}), "study: set: got 'seed'; expected the key seeds of the run"),
        (bad(set={"epoch": 1}), r"tiny: runs\[0\]: recipe key: got 'epoch'; .*did you mean 'epochs'"),
        (run(recipe="trade"), r"study: runs\[1\]: recipe: got 'trade'; .*did you mean 'trades'"),
        (run(sed=1), r"study: runs\[1\] key: got 'sed'; .*did you mean"),
        (run(seeds=[0, 0]), r"study: runs\[1\]: seeds: got \[0, 0\]; expected every seed once"),
        (run(seeds=[]), r"study: runs\[1\]: seeds: got \[\]"),
        (run(set={"data": "digits"}), r"study: runs\[1\]: set: got 'data'; expected the key data of the run"),
        (run(set={"objective.bta": 1}), r"tiny: runs\[1\]: recipe key: got 'objective.bta'; .*objective.beta"),
        (run(label="../x"), r"study: runs\[1\]: label: got '../x'; expected letters, digits"),
        (run(recipe="standard"), "study: runs: got 'standard'; expected different names; a label tells"),
        (run(control="standart"), r"study: runs\[1\]: control: got 'standart'; .*did you mean 'standard'"),
        (run(control="trades"), r"study: runs\[1\]: control: got 'trades'; expected another run"),
        (run(control="standard", seeds=[5]), "control: got 'standard'; expected a run with a seed in common; it has 0"),
        (run(control="standard", data="shapes"), "control: got 'standard'; expected a run on the same data, shapes"),
        (
            run(stages={"base": "pgd"}),
            "stages.base: got 'pgd'; expected a run that stands before it: standard",
        ),
        (run(stages={"base": "trades"}), "stages.base: got 'trades'; expected a run that stands before it: standard"),
        (
            run(stages={"base": "standard"}, seeds=[0, 5]),
            "got 'standard'; .* a run with the same seeds; .* seed 5",
        ),
        (run(stages={"base": "standard"}, data="shapes"), "got 'standard'; expected a run on the same data, shapes"),
        (run(stages={"base": "standard"}), r"tiny: runs\[1\]: stages: got 'base'; expected no stage: trades builds on"),
        (run(set={"stages.base": "x"}), r"runs\[1\]: set: got 'stages.base'; expected the key stages of the run"),
        (run(control="standard", judge=False), "control: got 'standard'; expected runs that are judged"),
        (judging(suite="quik"), r"study: judge.deterministic\[0\]: suite: got 'quik'; .*did you mean 'quick'"),
        (judging(suite="quick", n=0), r"study: judge.deterministic\[0\]: n: got 0; expected at least 1"),
        (judging(suite="quick", budget="vast"), r"judge.deterministic\[0\]: budget: got 'vast'"),
        (judging(suite="quick", eps="8/255x"), r"judge.deterministic\[0\]: eps: got '8/255x'"),
        (judging(suite="quick", norm="l7"), r"judge.deterministic\[0\]: norm: got 'l7'"),
        (judging(suite="quick", transfer=["standart"]), r"deterministic\[0\].transfer: got 'standart'; .*'standard'"),
        (
            run(data="shapes") | {"judge": {"all": [{"suite": "quick", "transfer": ["trades"]}]}},
            "transfer: got 'trades'; expected a run on the study's data, digits",
        ),
        (judging(suite="rand", draws=0), r"judge.deterministic\[0\]: draws: got 0; expected at least 1"),
        (judging(suite="quick", steps=7), r"judge.deterministic\[0\] key: got 'steps'"),
        (bad(judge={"deterministic": [{"suite": "quick"}], "all": [{"suite": "quick"}]}), "every judgement once"),
        (judging("stochastic", suite="rand"), r"runs\[0\]: judge.deterministic: got \[\]; .* for standard"),
        (
            bad(judge={"all": [{"suite": "standard"}]}, runs=[{"recipe": "standard"}, {"recipe": "ciiv"}]),
            r"tiny: runs\[1\]: judge: suite: got 'standard'; expected rand \(or adaptive\)",
        ),
    ],
)
def test_faults_are_one_line_before_anything_is_written(spec, match, tmp_path):
    refused(match, spec, out=tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_other_bad_input(tmp_path, finished):
    refused("^only: got 'pgdat'; .*did you mean 'pgd-at'", out=tmp_path, only=["pgdat"])
    refused("^seeds: got 7; expected seeds of the study: 0, 1", out=tmp_path, seeds=[7])
    refused("^part: got 'trian'; .*did you mean 'train'", out=tmp_path, part="trian")
    refused("^study: got 'mnits'; .*did you mean 'mnist'", "mnits", out=tmp_path)
    refused("^study: got .* a readable YAML file", tmp_path / "none.yaml", out=tmp_path)
    refused("^out: got .* nothing is to be shown yet", out=tmp_path / "new", part="table")
    refused("^out: got .* a folder; a file of this name exists", out=finished[1] / "study.json")
    refused("^data: got 'digit'", DEFINITION | {"data": "digit"}, out=finished[1], dry_run=True)


@pytest.mark.parametrize("name", study_file.names())
def test_the_studies_that_come_with_the_library(name, tmp_path):
    found = study_file.read(name)
    assert found.study == name
    assert found.about.endswith(".")
    runs = study_plan.planned(found, tmp_path, "here")
    assert {run.data.partition("+")[0] for run in runs} <= {"here", "here:train=10000"}
    for run in runs:
        control = next((other for other in runs if (other.name, other.seed) == (run.control, run.seed)), None)
        assert (control is None) == (run.control is None)
        if control is not None:  # every judgement but those that a random network refuses has a partner
            asked = {judgement.question for judgement in control.judgements}
            needed = {"pgd-20"} if name == "confounded" else {"adaptive", "unseen"}
            assert needed <= {judgement.question for judgement in run.judgements} & asked
            image_sizes = {study_plan.resolve(study_plan.read_spec(one.recipe), data="x", family=_FAMILY[name],
                           changes=one.changes).image_size for one in (run, control)}  # fmt: skip
            assert len(image_sizes) == 1


_FAMILY = {"mnist": "mnist", "fashion": "fashion", "cifar10": "cifar", "cifar10-small": "cifar"}
_FAMILY |= dict.fromkeys(("amr-gmm", "confounded"), "digits")


def test_the_confounded_study_trains_every_defence_at_every_rho(tmp_path):
    runs = study_plan.planned(study_file.read("confounded"), tmp_path)
    defences = {"standard", "mixup", "bpfc", "fgsm-rs", "pgd-at", "trades", "mart", "pgd-at+awp", "help",
                "causaladv-m", "causaladv-t", "cafe/adv", "cafe/trades", "ciiv", "ciiv+pgd-at",
                "smoothing"}  # fmt: skip
    rhos = ("1/10", "0.5", "0.9", "0.99")
    for name in defences:
        mine = [run for run in runs if run.method == name]
        assert [run.data for run in mine] == [f"digits+patch:rho={rho}" for rho in rhos]
        assert {tuple(one.kind for one in run.analyses) for run in mine} == {("reliance",)}
    assert {run.method for run in runs} - defences == {"amr-gmm", "fair/adv", "fair/trades"}
    epochs = {run.method: run.changes["epochs"] for run in runs}
    assert {name for name, count in epochs.items() if count != 12} == {
        "amr-gmm", "fair/adv", "fair/trades", "cafe/adv", "cafe/trades"
    }  # fmt: skip


def test_ablations_of_the_game_differ_in_one_setting_each(tmp_path):
    runs = study_plan.planned(study_file.read("amr-gmm"), tmp_path)
    base, *games = runs
    found = {run.name: study_plan.resolve(study_plan.read_spec(run.recipe), data=run.data, family="digits",
             changes=run.changes) for run in games}  # fmt: skip
    assert {name: (one.objective.penalty, one.objective.test) for name, one in found.items()} == {
        "lambda-0": (0, "learned"), "lambda-0.1": (0.1, "learned"), "lambda-1": (1, "learned"),
        "lambda-10": (10, "learned"), "g-random": (1, "random"), "g-identity": (1, "none"),
    }  # fmt: skip
    assert {run.grounds for run in games} == {(base.path,)}
    assert {tuple(one.name for one in run.analyses) for run in games} == {("analyze-effects",)}


def test_seeds_of_the_mnist_study(tmp_path):
    runs = study_plan.planned(study_file.read("mnist"), tmp_path)
    three = {"standard", "pgd-at", "trades", "causaladv-m", "causaladv-t", "amr-gmm"}
    three |= {f"{kind}/{host}" for kind in ("cafe", "fair") for host in ("adv", "trades", "mart", "awp", "help")}
    assert {run.name for run in runs if run.seed == 2} == three
    shared = next(run for run in runs if (run.name, run.seed) == ("cafe/trades", 2))
    assert shared.grounds == (tmp_path / "pgd-at-2", tmp_path / "amr-gmm-2")
    assert {run.name for run in runs if not run.judgements} == {"amr-gmm"}
    assert all(run.changes["precision"] == "bf16-mixed" for run in runs)


# Tables from records that were made by hand.

MACHINE = Machine(device="cpu", processor="x", threads=1, versions={})


def planted(folder, name, states, n=None, data="d", **changes):
    """A judged run whose examples are r (robust), b (broken by the suite), o (by its own attack) or c (wrong)."""
    folder.mkdir(parents=True, exist_ok=True)
    by = {"r": None, "b": "pgd", "o": "own", "c": "clean"}
    outcomes = tuple(
        Outcome(index=i, label=0, prediction=int(s == "c"), broken_by=by[s], distance=None)
        for i, s in enumerate(states)
    )
    count, right, stands = len(states), len(states) - states.count("c"), states.count("r")
    attacks = [
        AttackResult(name="pgd", settings={}, attacked=right, survivors=stands + states.count("o"), seconds=1.0,
                     forwards=1, backwards=1),
        AttackResult(name="own", settings={"declared": True}, attacked=stands + states.count("o"), survivors=stands,
                     seconds=1.0, forwards=1, backwards=1),
    ]  # fmt: skip
    record = EvaluationRecord(
        model=folder.name, model_digest="m", defence=name, data="toy[test]", data_digest=data, class_names=("a", "b"),
        threat=Threat(norm="linf", eps=0.1), suite="adaptive", n=count, seed=0, clean_accuracy=right / count,
        clean_interval=wilson_interval(right, count), robust_accuracy=stands / count,
        robust_interval=wilson_interval(stands, count), verdict=Verdict(reliable=True),
        attacks=tuple(attacks[: 2 if "o" in states else 1]), outcomes=outcomes, forwards=1, backwards=1, seconds=1.0,
        cpu_seconds=1.0, machine=MACHINE,
    )  # fmt: skip
    training = TrainingRecord(
        recipe={"recipe": name, "data": "/somewhere"}, recipe_digest="r", data="toy[train]", data_digest="t",
        class_names=("a", "b"), seed=0, epochs_run=1, selected_epoch=None, selection="last", parameters=1, seconds=1.0,
        images_per_second=1.0, machine=MACHINE,
    )  # fmt: skip
    RunFolder(folder).record.write_text(training.to_json())
    (folder / "adaptive.json").write_text(record.to_json())


STATES = {
    "standard-0": "rrrrrbbbbc",
    "standard-1": "rrbbbbbbcc",
    "pgd-at-0": "rrrrrrrrrc",
    "pgd-at-1": "rrrroorrbc",
}


@pytest.fixture
def by_hand(tmp_path):
    for name, states in STATES.items():
        planted(tmp_path / name, name[:-2], states)
    definition = study_file.read(DEFINITION | {"judge": {"all": [{"suite": "adaptive"}]}})
    return definition, study_plan.planned(definition, tmp_path)


def tables(definition, runs):
    return collected(definition, runs, [study_plan.status(run) for run in runs], []).record


def test_the_arithmetic_of_a_table(by_hand):
    record = tables(*by_hand)
    shares = {name: states.count("r") / 10 for name, states in STATES.items()}
    found = {run.folder: run.results[0] for run in record.runs}
    assert {name: one.robust_accuracy for name, one in found.items()} == shares
    assert found["pgd-at-1"].undeclared.share == 0.8
    assert found["pgd-at-1"].undeclared.interval == wilson_interval(8, 10)
    assert found["pgd-at-1"].survivors == {"pgd": 8, "own": 6}
    assert found["pgd-at-0"].undeclared is None
    mean = next(mean for mean in record.means if mean.name == "standard")
    assert (mean.seeds, mean.robust, mean.robust_mean) == ((0, 1), (0.5, 0.2), 0.35)
    assert mean.robust_deviation == pytest.approx(statistics.stdev([0.5, 0.2]))
    assert (mean.clean, mean.clean_mean) == ((0.9, 0.8), pytest.approx(0.85))
    p_values = []
    for seed, test in enumerate(record.tests):
        a, b = ([state == "r" for state in STATES[f"{name}-{seed}"]] for name in ("pgd-at", "standard"))
        ahead, behind = sum(x > y for x, y in zip(a, b, strict=True)), sum(x < y for x, y in zip(a, b, strict=True))
        assert (test.seed, test.test.n, test.test.first) == (seed, 10, f"pgd-at-{seed}")
        assert test.test.robust.difference == pytest.approx((ahead - behind) / 10)
        assert test.test.robust.interval == paired_interval(ahead, behind, 10)
        assert test.test.robust.p_value == mcnemar(a, b)
        p_values.append(mcnemar(a, b))
    assert [test.test.robust.adjusted_p_value for test in record.tests] == holm(p_values) != p_values
    assert [test.same_attacks for test in record.tests] == [True, False]
    (over,) = record.differences
    assert over.differences == pytest.approx((0.4, 0.4))
    assert (over.mean, over.deviation) == (pytest.approx(0.4), pytest.approx(0.0))


def test_families_are_questions(tmp_path, by_hand):
    """A test of another question does not make this one harder."""
    one = tables(*by_hand)
    for name in STATES:
        shutil.copy(tmp_path / name / "adaptive.json", tmp_path / name / "quick.json")
    both = study_file.read(DEFINITION | {"judge": {"all": [{"suite": "adaptive"}, {"suite": "quick"}]}})
    two = tables(both, study_plan.planned(both, tmp_path))
    assert [test for test in two.tests if test.question == "adaptive"] == list(one.tests)
    assert len(two.tests) == 4


def test_the_same_question_asked_with_other_loops_and_draws(tmp_path, by_hand):
    """The first is tested against the control; the other stands beside it, in no mean and no test of the first."""
    one = tables(*by_hand)
    for name in STATES:
        shutil.copy(tmp_path / name / "adaptive.json", tmp_path / name / "adaptive-loops1-draws1.json")
    asked = [{"suite": "adaptive"}, {"suite": "adaptive", "loops": 1, "draws": 1}]
    both = study_file.read(DEFINITION | {"judge": {"all": asked}})
    two = tables(both, study_plan.planned(both, tmp_path))
    assert two.tests == one.tests
    assert two.differences == one.differences
    assert [m for m in two.means if m.question == "adaptive"] == list(one.means)
    answers = [(result.question, result.judgement) for result in two.runs[0].results]
    assert answers == [("adaptive", "adaptive"), ("adaptive-loops1-draws1", "adaptive-loops1-draws1")]


def test_the_same_images_only(tmp_path, by_hand):
    planted(tmp_path / "pgd-at-0", "pgd-at", "rrrr")
    planted(tmp_path / "pgd-at-1", "pgd-at", STATES["pgd-at-1"], data="of another size")
    record = tables(*by_hand)
    assert record.tests[0].test.n == 4
    assert record.tests[0].test.robust.difference == 0
    assert record.tests[1].test.not_compared == "other images, such as of another size"
    assert record.differences[0].seeds == (0,)
    assert record.differences[0].deviation is None
    apart = [mean.n for mean in record.means if mean.name == "pgd-at"]
    assert apart == [4, 10]  # other questions are not averaged


def test_nothing_of_a_machine_or_an_example_is_in_the_record(by_hand):
    text = tables(*by_hand).to_json()
    assert "/somewhere" not in text
    assert "outcomes" not in text
    assert StudyRecord.from_json(text).to_json() == text


def test_python_has_it_by_name():
    assert deconfound.study is study
    assert deconfound.StudyRecord is StudyRecord
    assert list(itertools.islice(study_file.names(), 4)) == ["amr-gmm", "cifar10", "cifar10-small", "confounded"]
