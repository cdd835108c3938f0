"""The training job: what it leaves, that it repeats itself to the byte, and what it refuses."""

from __future__ import annotations

import json
import re
import shutil

import pytest
import torch
from safetensors import safe_open

import deconfound
from deconfound.errors import InputError
from deconfound.recipes.compute import Compute
from deconfound.recipes.loading import load_run
from deconfound.recipes.targets import Target, evaluate_target
from deconfound.recipes.training import default_run, train
from deconfound.records import TrainingRecord
from jobs import WEIGHTS, Told, contents, data_module, images, split


def test_a_run_leaves_its_files(trained):
    assert {path.name for path in trained.path.iterdir()} == {
        "recipe.yaml",
        "metrics.jsonl",
        "last.ckpt",
        "model.safetensors",
        "players.safetensors",
        "record.json",
        "tensorboard",
    }
    record = TrainingRecord.read(trained.path / "record.json")
    assert record == trained.record
    assert record.data == "digits[train]"
    assert record.class_names == tuple("0123456789")
    assert record.parameters == sum(p.numel() for p in trained.model.parameters())
    rows = [json.loads(line) for line in (trained.path / "metrics.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [0, 1]
    assert tuple(rows) == record.history
    assert record.validation == {k: v for k, v in rows[record.selected_epoch].items() if k.startswith("validation_")}
    assert 0 < record.validation["validation_robust"] <= record.validation["validation_clean"]
    assert not trained.model.training


def test_equal_runs_give_equal_bytes_wherever_they_lie(trained, tiny, tmp_path):
    torch.manual_seed(99)  # whatever happened before
    again = train("pgd-at", out=tmp_path / "another" / "name", changes=tiny, checkpoint_seconds=0)
    for name in (*WEIGHTS, "metrics.jsonl", "recipe.yaml"):
        assert (again.path / name).read_bytes() == (trained.path / name).read_bytes(), name
    assert again.record.recipe_digest == trained.record.recipe_digest
    assert (again.path / "previous.ckpt").exists()


def test_the_resolved_recipe_trains_the_same_run_again(trained, tmp_path):
    again = train(trained.path / "recipe.yaml", out=tmp_path / "again")
    for name in (*WEIGHTS, "recipe.yaml"):
        assert (again.path / name).read_bytes() == (trained.path / name).read_bytes()


def test_another_seed_gives_other_weights(trained, tiny):
    other = train("pgd-at", changes=tiny | {"seed": 1}).model.state_dict()
    assert not torch.equal(other["conv1.weight"], trained.model.state_dict()["conv1.weight"])


def test_weights_say_what_they_are_and_not_where_or_when(trained):
    for name in WEIGHTS:
        with safe_open(trained.path / name, framework="pt") as file:
            metadata = file.metadata()
        assert list(metadata) == ["deconfound"]
        said = json.loads(metadata["deconfound"])
        assert json.dumps(said, sort_keys=True) == metadata["deconfound"]
        assert set(said) == {"class_names", "data_digest", "normalisation", "recipe", "recipe_digest", "shape"}
        assert said["recipe"]["data"] == "digits"
        text = (trained.path / name).read_bytes().decode("latin1")
        assert str(trained.path) not in text
        assert not re.search(r"20\d\d-\d\d-\d\d", text)


def test_weights_do_not_depend_on_where_the_data_lay(tmp_path, monkeypatch):
    from PIL import Image

    for number in range(24):
        place = tmp_path / "here" / "train" / "ab"[number % 2] / f"{number}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (16, 16), number * 10).save(place)
    shutil.copytree(tmp_path / "here", tmp_path / "there" / "deeper")
    monkeypatch.chdir(tmp_path)
    changes = {"epochs": 1, "batch_size": 8, "family": "digits"}
    one = train("standard", data="here", out="one", changes=changes)
    two = train("standard", data=str(tmp_path / "there" / "deeper"), out="two", changes=changes)
    for name in WEIGHTS:
        assert (one.path / name).read_bytes() == (two.path / name).read_bytes()
    assert one.record.recipe_digest == two.record.recipe_digest
    with pytest.raises(InputError, match="data: got None"):
        evaluate_target(Target(target=str(shutil.copy("one/model.safetensors", "alone.safetensors"))))


def test_in_memory_nothing_is_written(tmp_path, monkeypatch, trained, tiny):
    monkeypatch.chdir(tmp_path)
    found = deconfound.train({"recipe": "pgd-at", "data": "digits"}, changes=tiny)
    assert found.path is None
    assert list(tmp_path.iterdir()) == []
    assert torch.equal(found.model(images()), trained.model(images()))


def test_a_loaded_run_predicts_the_same(trained):
    for place in (trained.path, str(trained.path), trained.path / "model.safetensors"):
        model = deconfound.load(place)
        assert not model.training
        assert torch.equal(model(images()), trained.model(images()))
    loaded = load_run(trained.path)
    assert loaded.recipe.digest() == trained.record.recipe_digest
    assert loaded.class_names == trained.record.class_names


def test_normalisation_travels_with_the_weights(tmp_path, tiny):
    changes = tiny | {"epochs": 1, "normalisation": {"mean": [0.3], "std": [0.4]}, "averaging": {"name": "ema"}}
    found = train("standard", out=tmp_path / "run", changes=changes)
    assert torch.equal(deconfound.load(tmp_path / "run")(images()), found.model(images()))
    assert found.model.normalise.mean.item() == pytest.approx(0.3)


def test_the_kept_epoch_is_the_best_or_the_last(tmp_path, tiny):
    found = train("pgd-at", out=tmp_path / "run", changes=tiny | {"epochs": 3, "lr": 0.02, "seed": 2})
    scores = [row["validation_robust"] for row in found.record.history]
    assert found.record.selected_epoch == scores.index(max(scores))
    last = train("pgd-at", out=tmp_path / "last", changes=tiny | {"epochs": 3, "selection.keep": "last"})
    assert last.record.selected_epoch == 2


def test_the_norm_decides_the_radius_and_the_threat(tiny):
    record = train("pgd-at", changes=tiny | {"epochs": 1, "steps": 1, "norm": "l2"}).record
    assert (record.recipe["norm"], record.recipe["eps"]) == ("l2", 2)


def test_the_monitor_hears_what_is_trained():
    told = Told()
    train("standard", changes={"epochs": 1}, monitor=told)
    assert told.messages == [
        "standard on digits[train]: 1,437 images, digits family (--set family=... changes it), network small, "
        "linf 0.1, 1 epochs, seed 0"
    ]
    assert told.started == [("training", 20, 0)]


def test_default_run_folders(tmp_path, trained):
    assert str(default_run("pgd-at")) == "runs/pgd-at-digits"
    assert str(default_run("pgd-at", "../some/mnist/")) == "runs/pgd-at-mnist"
    assert str(default_run("trades", "uoft-cs/cifar10")) == "runs/trades-cifar10"
    assert str(default_run("trades", "module:make")) == "runs/trades-module-make"
    mine = tmp_path / "mine.yaml"
    mine.write_text("recipe: trades\ndata: zalando-datasets/fashion_mnist\n")
    assert str(default_run(str(mine))) == "runs/mine-fashion_mnist"
    assert str(default_run(str(trained.path / "recipe.yaml"))) == "runs/pgd-at-digits"


def refused(tmp_path, match, recipe="pgd-at", **arguments):
    """One line, and nothing written."""
    before = contents(tmp_path)
    with pytest.raises(InputError, match=match) as caught:
        train(recipe, **{"out": tmp_path / "new"} | arguments)
    assert "\n" not in str(caught.value)
    assert contents(tmp_path) == before
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"model": "smal"}, "model: got 'smal'.*did you mean 'small'"),
        ({"model_options.width": 8}, "option of small: got 'width'"),
        ({"normalisation": {"mean": [0.5, 0.5], "std": [1, 1]}}, "mean: got .*one per channel"),
        ({"augmentation": {"crop": 20, "padding": "reflect"}}, r"less than the side of the images \(16x16\)"),
        ({"objective": "fgsm-rs"}, "steps: got 10; expected 1 for fgsm-rs"),
        ({"players.critic.momentum": 0.5}, "players: got 'critic'; expected one of model"),
        ({"step_size": 0}, "step_size: got 0"),
        ({"image_size": 2}, "size: got"),
        ({"family": "digts"}, "family: got 'digts'"),
        ({"data": 5}, "data: got 5; expected a name"),
        ({"data": "digit"}, "data: got 'digit'.*did you mean 'digits'"),
    ],
)
def test_what_cannot_be_trained_is_refused_before_anything_is_written(tmp_path, changes, match):
    refused(tmp_path, match, changes=changes)


@pytest.mark.parametrize(
    ("compute", "match"),
    [
        ({"strategy": "ddp_spawn"}, "strategy: got 'ddp_spawn'.*auto or ddp"),
        ({"strategy": "fsdp"}, "strategy: got 'fsdp'.*need whole weights on each device"),
        ({"strategy": "foo"}, "settings that Fabric accepts"),
        ({"accelerator": "foo"}, "settings that Fabric accepts"),
        ({"devices": 0}, "settings that Fabric accepts"),
        ({"devices": "two"}, "settings that Fabric accepts"),
    ],
)
def test_impossible_devices(tmp_path, compute, match):
    refused(tmp_path, match, compute=Compute(**compute))


def test_resume_and_overwrite_need_a_folder(tmp_path):
    for choice in ({"resume": True}, {"overwrite": True}):
        refused(tmp_path, "out: got None; expected a run folder", out=None, **choice)


def test_data_that_cannot_be_trained_on(tmp_path, monkeypatch):
    pixels, labels = split()
    wrong = {
        "only_test": ({"test": (pixels, labels)}, "a data set with train images; it has test"),
        "few": ({"train": (pixels[:5], labels[:5])}, "at least 10 images"),
        "levels": ({"train": (pixels * 255, labels)}, "divide by 255"),
        "normalised": ({"train": ((pixels - 0.5) / 0.3, labels)}, "leave normalisation to the model"),
        "gap": ({"train": (pixels / torch.zeros(()), labels)}, "NaN or infinite pixels"),
        "negative": ({"train": (pixels, labels - 1)}, "labels within 0..2"),
        "named": ({"train": (pixels, labels, ["a", "b", "c"])}, "labels within 0..2 for 3 classes"),
        "nothing": ({"train": (pixels[:0], labels[:0])}, "at least one image"),
        "one_class": ({"train": (pixels, labels * 0)}, "at least two classes"),
    }
    for name, (splits, match) in wrong.items():
        refused(tmp_path, match, data=data_module(monkeypatch, f"recipes_{name}", **splits))


def test_divergence_says_what_to_do(tmp_path):
    with pytest.raises(FloatingPointError, match=r"training diverged: .*lower lr"):
        train("standard", out=tmp_path / "run", changes={"epochs": 1, "lr": 1e30})


@pytest.mark.parametrize(
    ("recipe", "changes", "line"),
    [
        ("amr-gmm", {}, r"averaging.name: got 'ema'; .* is h, g$"),
        ("causaladv-m", {}, r"averaging.name: got 'ema'; .* is model, style$"),
        ("cafe/adv", {"stages.amr.averaging.name": "ema", "averaging.name": "none"}, r"stages.amr: averaging.name: "),
    ],
)
def test_averaging_that_would_not_average_what_is_trained_is_refused(recipe, changes, line, tmp_path):
    small = {"model": "small", "averaging.name": "ema"}
    with pytest.raises(InputError, match=f"^{line}"):
        train(recipe, out=tmp_path / "run", changes=small | changes)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("recipe", "changes", "field", "player"),
    [
        ("standard", {"batch_size": 1, "model": "vgg16"}, "batch_size", "model"),
        ("amr-gmm", {"batch_size": 1, "model": "mlp", "stages.base.batch_size": 16}, "batch_size", "h"),
        ("amr-gmm", {"model": "vgg16", "stages.base.batch_size": 1}, "stages.base: batch_size", "model"),
    ],
)
def test_a_batch_of_one_for_batchnorm_is_refused_before_a_folder_is_made(recipe, changes, field, player, tmp_path):
    rule = rf"^{field}: got 1; expected at least 2, two images for each process, because BatchNorm in {player} "
    with pytest.raises(InputError, match=rule):
        train(recipe, out=tmp_path / "run", changes=changes)
    assert not any(tmp_path.iterdir())
