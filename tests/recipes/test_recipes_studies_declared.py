"""What a study declares: faults are one line before anything is written, and what the library's own studies hold."""

from __future__ import annotations

import itertools

import pytest

import deconfound
from deconfound.recipes import study_file, study_plan
from deconfound.recipes.registry import entry_of
from deconfound.recipes.studying import study
from deconfound.records import StudyRecord
from small_study import DEFINITION, refused


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


_TRAINING = ("epochs", "batch_size", "lr", "optimizer", "players", "schedule", "augmentation", "normalisation", "model",
             "model_options", "precision", "channels_last", "clip_norm", "averaging")  # fmt: skip
_ATTACK = ("norm", "eps", "eps_warmup", "steps", "step_size", "attack_mode")
_ALLOWED = {
    ("cifar10", "fgsm-rs"): {"epochs", "lr", "schedule"},
    ("cifar10", "cafe/base"): {"epochs", "optimizer", "schedule"},
}
"""What runs that train from scratch may have other than their controls; the study's file says so."""


@pytest.mark.parametrize("name", study_file.names())
def test_runs_from_scratch_differ_from_their_controls_in_the_method_alone(name, tmp_path):
    runs = study_plan.planned(study_file.read(name), tmp_path)
    found = {(run.name, run.seed): study_plan.resolve(study_plan.read_spec(run.recipe), data=run.data,
             family=_FAMILY[name], changes=run.changes) for run in runs}  # fmt: skip
    compared, differing = 0, {}
    for run in (run for run in runs if run.control is not None):
        pair = found[run.name, run.seed], found[run.control, run.seed]
        entries = [entry_of(one.objective.name) for one in pair]
        if any(entry.begins_at for entry in entries):
            continue
        keys = _TRAINING + _ATTACK * all(entry.adversarial for entry in entries)
        mine, theirs = (one.model_dump() for one in pair)
        for options in (mine["model_options"], theirs["model_options"]):
            options.setdefault("bias", True)
        compared += 1
        if different := {key for key in keys if mine[key] != theirs[key]}:
            differing[name, run.name] = different
    assert compared > 0 or name == "amr-gmm"
    assert differing == {place: keys for place, keys in _ALLOWED.items() if place[0] == name}


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
    assert {run.seed for run in runs} == {0, 1, 2}
    base, *games = [run for run in runs if run.seed == 2]
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


def test_python_has_it_by_name():
    assert deconfound.study is study
    assert deconfound.StudyRecord is StudyRecord
    assert list(itertools.islice(study_file.names(), 4)) == ["amr-gmm", "cifar10", "cifar10-small", "confounded"]
