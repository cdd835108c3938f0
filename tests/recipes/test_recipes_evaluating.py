"""Evaluation of runs, networks and tensors: figures that repeat, and one line for whatever is wrong."""

from __future__ import annotations

import json
import shutil

import pytest
import torch

from deconfound.core.threat import ThreatModel
from deconfound.errors import InputError
from deconfound.recipes import targets
from deconfound.recipes.evaluating import Judging
from deconfound.recipes.resolve import family_radii
from deconfound.recipes.targets import Target, chosen, evaluate_target
from deconfound.recipes.training import train
from deconfound.records import EvaluationRecord
from deconfound.store.weights import read_weights, write_weights
from jobs import data_module, split
from judged import untimed

THREAT = ThreatModel("linf", 0.1)
FAST = Judging(suite="quick", checks=False, curve=False, gallery=0)


@pytest.fixture
def run(trained, tmp_path):
    return shutil.copytree(trained.path, tmp_path / "run")


def test_a_run_knows_its_data_and_threat(run):
    record, path = evaluate_target(Target(target=str(run), n=30), FAST)
    assert path == run / "evaluate-quick-linf-0.1-n30.json"
    assert EvaluationRecord.read(path) == record
    assert not path.with_name(path.name + ".journal").exists()
    assert (record.model, record.defence, record.data, record.n) == ("run", "pgd-at", "digits[test]", 30)
    assert record.threat.model_dump() == {"norm": "linf", "eps": 0.1, "box": (0.0, 1.0)}
    assert record.training["epochs"] == 2
    assert [outcome.index for outcome in record.outcomes] == list(range(30))
    assert record.clean_accuracy == sum(o.broken_by != "clean" for o in record.outcomes) / 30
    assert record.robust_accuracy == sum(o.broken_by is None for o in record.outcomes) / 30


def test_a_file_of_the_run_knows_its_data_too(run):
    record, path = evaluate_target(Target(target=str(run / "model.safetensors"), n=10), FAST)
    assert path is None
    assert record.data == "digits[test]"
    assert record.model_digest == evaluate_target(Target(target=str(run), n=10), FAST)[0].model_digest


def test_the_norm_picks_the_familys_radius(run):
    for norm, radius, name in (("l2", 2, "l2-2"), ("L1", 10, "l1-10")):
        record, path = evaluate_target(Target(target=str(run), norm=norm, n=5), FAST)
        assert record.threat.eps == radius
        assert path.name == f"evaluate-quick-{name}-n5.json"
    record, path = evaluate_target(Target(target=str(run), norm="l2", eps="1/2", n=5), FAST)
    assert record.threat.eps == 0.5
    assert path.name == "evaluate-quick-l2-0.5-n5.json"


def test_a_run_on_resized_images_keeps_the_family_it_was_trained_with(tmp_path, monkeypatch):
    """Grey images of 28 pixels are like MNIST; CiiV has them resized to 32, a shape that tells nothing."""
    few = split(count=40, shape=(1, 28, 28))
    data = data_module(monkeypatch, "evaluating_resized", train=few, test=few)
    small = {"epochs": 1, "model": "mlp", "sampler.loops": 2, "selection.size": 2}
    path = train("ciiv", data=data, out=tmp_path / "run", changes=small).path
    seen = []
    monkeypatch.setattr(targets, "run", lambda judging, subject, **_: seen.append(subject))
    with pytest.raises(AttributeError, match="to_json"):
        evaluate_target(Target(target=str(path), n=2), Judging(suite="unseen"), out=tmp_path / "record.json")
    (subject,) = seen
    assert tuple(subject.images.shape) == (1, 32, 32)
    assert subject.radii == family_radii("mnist") != family_radii("generic")


def test_samples_are_drawn_by_seed_alone():
    assert chosen(100, 3, None).tolist() == [0, 1, 2]
    drawn = chosen(100, 20, 7)
    assert torch.equal(drawn, chosen(100, 20, 7))
    assert not torch.equal(drawn, chosen(100, 20, 8))
    assert drawn.unique().tolist() == drawn.tolist()
    assert set(chosen(100, 10, 7).tolist()) < set(drawn.tolist())
    assert chosen(100, None, 7).tolist() == list(range(100))


def test_weights_under_a_networks_name(run, tmp_path):
    by_run, _ = evaluate_target(Target(target=str(run), n=20), FAST)
    foreign = Target(target="small", weights=str(run / "model.safetensors"), data="digits", n=20)
    record, path = evaluate_target(foreign, FAST, out=tmp_path / "deep" / "er" / "record.json")
    assert path.is_file()
    assert record.defence == ""
    assert record.threat.eps == 0.1  # of the data family
    assert record.robust_accuracy == by_run.robust_accuracy
    assert [o.model_dump() for o in record.outcomes] == [o.model_dump() for o in by_run.outcomes]


@pytest.mark.parametrize(
    "changes",
    [{"normalisation.mean": [0.5], "normalisation.std": [0.5]}, {"model_options.bias": False}],
)
def test_weights_of_a_network_with_more_to_it_are_not_taken_for_the_plain_one(tmp_path, changes):
    """Its normalisation is no tensor of the file: without it the same weights compute something else."""
    model = "resnet20" if "model_options.bias" in changes else "small"
    path = train(
        "standard", out=tmp_path / "run", changes={"epochs": 1, "model": model, "selection.size": 2} | changes
    ).path
    file = path / "model.safetensors"
    with pytest.raises(InputError, match=r"weights: got '.*'; expected weights of .* alone; .*: deconfound evaluate "):
        evaluate_target(Target(target=model, weights=str(file), data="digits", n=5), FAST)
    record, _ = evaluate_target(Target(target=str(file), n=5), FAST)
    assert record.defence == "standard"


@pytest.mark.parametrize("name", ["timm:resnet18", "torchvision:resnet18"])
def test_a_network_of_another_library_needs_weights(name):
    with pytest.raises(InputError, match=rf"weights: got None; expected a file of weights .*{name}"):
        evaluate_target(Target(target=name, data="digits", n=5), FAST)


def test_a_folder_called_like_a_network_is_no_obstacle(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small").mkdir()
    weights = str(run / "model.safetensors")
    record, _ = evaluate_target(Target(target="small", weights=weights, data="digits", n=5), FAST)
    assert record.model == "small"


def test_third_party_weights(shared):
    target = Target(
        target="lenet5",
        weights=str(shared / "weights" / "mnist_lenet5_adv.pt"),
        data=str(shared / "data" / "mnist"),
        n=20,
    )
    record, path = evaluate_target(target, FAST)
    assert path is None
    assert record.threat.eps == 0.3
    assert record.clean_accuracy >= 0.95
    assert record.robust_accuracy >= 0.8  # trained against this threat by others


class Cut(Exception):
    """Stands for a kill."""


class CutAfter:
    """A monitor that ends the evaluation at its n-th update."""

    def __init__(self, updates):
        self.left = updates

    def start(self, task, total, done=0):
        pass

    def update(self, done, values):
        self.left -= 1
        if not self.left:
            raise Cut

    def message(self, text):
        pass

    def finish(self):
        pass


class TestJournal:
    small = Judging(suite="quick", batch_size=10, checks=False, curve=False, gallery=2)

    def cut(self, run, updates=6, overwrite=False, **target):
        what, monitor = Target(target=str(run), n=40, **target), CutAfter(updates)
        with pytest.raises(Cut):
            evaluate_target(what, self.small, overwrite=overwrite, monitor=monitor)
        return run / "evaluate-quick-linf-0.1-n40.json.journal"

    def test_an_interrupted_evaluation_goes_on(self, run, trained, tmp_path):
        whole, _ = evaluate_target(Target(target=str(run), n=40), self.small, out=tmp_path / "whole.json")
        journal = self.cut(run)
        lines = journal.read_text().splitlines()
        assert len(lines) == 7  # the call, four batches of clean images, two of attacked ones
        entry = json.loads(lines[1])
        entry["cost"][0] = 12345.0  # a piece that is not done again shows its mark
        lines[1] = json.dumps(entry, sort_keys=True)
        journal.write_text("\n".join(lines) + '\n{"piece": "cut o')
        resumed, path = evaluate_target(Target(target=str(run), n=40), self.small)
        assert untimed(resumed, "notes") == untimed(whole, "notes")
        assert resumed.seconds > 12345
        assert not journal.exists()
        assert path.exists()

    def test_an_interrupted_overwrite_goes_on(self, run):
        target = Target(target=str(run), n=40)
        whole, path = evaluate_target(target, self.small)
        journal = self.cut(run, overwrite=True)
        lines = journal.read_text().splitlines()
        lines[1] = lines[1].replace('"cost": [', '"cost": [12345')  # a piece that is not done again shows its mark
        journal.write_text("\n".join(lines) + "\n")
        with pytest.raises(InputError, match=r"a finished record lies here \(--overwrite replaces it\)"):
            evaluate_target(target, self.small)
        resumed, _ = evaluate_target(target, self.small, overwrite=True)
        assert untimed(resumed, "notes") == untimed(whole, "notes")
        assert resumed.seconds > 12345
        assert EvaluationRecord.read(path) == resumed
        assert not journal.exists()

    def test_other_settings_are_refused_with_a_way_out(self, run):
        journal = self.cut(run)
        before = journal.read_bytes()
        target = Target(target=str(run), n=40)
        other = Judging(suite="quick", batch_size=20, checks=False, curve=False, gallery=2)
        with pytest.raises(InputError) as caught:
            evaluate_target(target, other)
        message = str(caught.value)
        assert message.startswith("journal: batch_size: got 10; expected 20, as in this call")
        rest = "holds an unfinished evaluation with other settings (--overwrite forgets it)"
        assert message.endswith(f"{journal} {rest}")
        assert journal.read_bytes() == before
        _, path = evaluate_target(target, other, overwrite=True)
        assert path.exists()
        assert not journal.exists()

    def test_another_source_of_the_same_name_is_refused(self, run, trained, tmp_path):
        for place in ("a", "b"):
            shutil.copytree(trained.path, tmp_path / place / "other")
        file = tmp_path / "b" / "other" / "model.safetensors"
        tensors, about = read_weights(file)
        write_weights(file, {name: value + 1e-3 for name, value in tensors.items()}, about)
        self.cut(run, transfer_from=(str(tmp_path / "a" / "other"),))
        with pytest.raises(InputError, match=r"^journal: sources: got .*other, weights"):
            evaluate_target(Target(target=str(run), n=40, transfer_from=(str(tmp_path / "b" / "other"),)), self.small)

    def test_bad_input_found_while_judging_leaves_no_journal(self, run, monkeypatch):
        """Only what was asked is in it; finished pieces would stay."""

        def refuse(*_):
            raise InputError("images", "planted", "better ones")

        before = sorted(run.rglob("*"))
        with monkeypatch.context() as patch:
            patch.setattr("deconfound.evaluation.run.check_images", refuse)
            with pytest.raises(InputError, match="planted"):
                evaluate_target(Target(target=str(run), n=40), self.small)
        assert sorted(run.rglob("*")) == before
        monkeypatch.setattr("deconfound.evaluation.run.Run._attack_batch", refuse)
        for _ in range(2):
            with pytest.raises(InputError, match="planted"):
                evaluate_target(Target(target=str(run), n=40), self.small)
            journal = run / "evaluate-quick-linf-0.1-n40.json.journal"
            assert len(journal.read_text().splitlines()) == 5  # the call, four batches of clean images

    def test_a_finished_record_is_not_replaced_unasked(self, run):
        target = Target(target=str(run), n=5)
        _, path = evaluate_target(target, FAST)
        path.write_text("mine")
        with pytest.raises(InputError, match="a finished record lies here"):
            evaluate_target(target, FAST)
        assert path.read_text() == "mine"
        evaluate_target(target, FAST, overwrite=True)
        assert EvaluationRecord.read(path).n == 5


@pytest.mark.parametrize(
    ("target", "match"),
    [
        ({"target": "small"}, "weights: got None; expected a file of weights"),
        ({"target": "smal"}, "target: got 'smal'; expected a run folder that exists, or a network"),
        ({"target": "small", "weights": "RUN/model.safetensors"}, "data: got None; expected a data set"),
        ({"target": "small", "weights": "nowhere", "data": "digits"}, "weights: got 'nowhere'"),
        ({"weights": "RUN/model.safetensors"}, "weights: got .* expected none with a run"),
        ({"mean": (0.5,), "std": (0.5,)}, r"mean: got \(0.5,\); expected none with a run"),
        ({"target": "small", "weights": "RUN/model.safetensors", "data": "digits", "mean": (1,)}, "mean and std"),
        ({"n": 0}, "n: got 0; expected between 1 and the split's 360 images"),
        ({"n": 361}, "n: got 361"),
        ({"n": 3, "sample": -1}, "sample: got -1"),
        ({"n": 3, "sample": 2**70}, "sample: got"),
        ({"eps": "8/255x"}, "eps: got '8/255x'"),
        ({"eps": 8}, "eps: got 8.0; expected at most 1 for linf"),
        ({"norm": "l7"}, "norm: got 'l7'"),
        ({"data": "digit"}, "data: got 'digit'"),
        ({"device": "foo"}, "device: got 'foo'"),
        ({"device": "meta"}, "device: got 'meta'"),
        ({"target": "RUN/record.json"}, "run: got"),
        ({"target": "RUN/players.safetensors"}, "8 missing: conv1.weight, .* 8 unexpected: model/conv1"),
        ({"target": "RUN/tensorboard"}, "a folder with model.safetensors, as train leaves it"),
    ],
)
def test_bad_targets(run, target, match, monkeypatch):
    arguments = {"target": str(run)} | target
    arguments = {k: v.replace("RUN", str(run)) if isinstance(v, str) else v for k, v in arguments.items()}
    before = sorted(run.rglob("*"))
    with pytest.raises(InputError, match=match) as caught:
        evaluate_target(Target(**arguments), FAST)
    assert "\n" not in str(caught.value)
    assert sorted(run.rglob("*")) == before


@pytest.mark.parametrize(
    "judging", [{"suite": "quik"}, {"budget": "x"}, {"seed": -1}, {"seed": 2**63}, {"batch_size": 0}]
)
def test_bad_judging(run, judging):
    (key,) = judging
    with pytest.raises(InputError, match=f"^{key}: got"):
        evaluate_target(Target(target=str(run)), Judging(**judging))


def test_a_place_that_cannot_be_written(run):
    before = sorted(run.rglob("*"))
    below = run / "record.json" / "below"
    for out, match in ((run, "a file; a folder lies here"), (below, "a file lies where a folder is needed")):
        with pytest.raises(InputError, match=match):
            evaluate_target(Target(target=str(run), n=5), FAST, out=out)
    assert sorted(run.rglob("*")) == before
