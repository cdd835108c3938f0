"""CausalAdv by its recipes: settings, runs, evaluation with its own attacks."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file

import deconfound
from causal_steps import marginalised
from deconfound.attacks.budgets import budget
from deconfound.errors import InputError
from deconfound.models.style_branch import StyleBranch
from deconfound.objectives.styled import StyleLoss
from deconfound.recipes import declaring
from deconfound.recipes.loading import load_run
from deconfound.recipes.registry import build_objective
from deconfound.recipes.resolve import parse_changes, resolve
from deconfound.recipes.training import train
from toys import SplitNet

NAMES = ("causaladv-m", "causaladv-t")


def recipe(name, data="digits", family="digits", *changes):
    return resolve({"recipe": name}, data=data, family=family, changes=parse_changes(changes))


@pytest.fixture(scope="module", params=NAMES)
def run(request, tmp_path_factory):
    """A short run on digits."""
    changes = {"epochs": 2, "steps": 1, "selection.steps": 1}
    return train(request.param, out=tmp_path_factory.mktemp("runs") / request.param, changes=changes)


@pytest.mark.parametrize("name", NAMES)
def test_the_authors_settings_on_cifar(name):
    for data, rotation in (("uoft-cs/cifar10", 0), ("uoft-cs/cifar100", 15), ("./CIFAR-100", 15), ("mine", 0)):
        found = recipe(name, data, "cifar")
        assert (found.epochs, found.batch_size, found.lr) == (120, 128, 0.1)
        assert (found.optimizer.name, found.optimizer.momentum, found.optimizer.weight_decay) == ("sgd", 0.9, 2e-4)
        assert (found.schedule.milestones, found.schedule.factor) == ((0.5, 0.75), 0.1)
        assert (found.steps, found.step_size, found.eps, found.attack_mode) == (10, 0.007, 8 / 255, "eval")
        assert (found.augmentation.crop, found.augmentation.flip, found.augmentation.rotation) == (4, True, rotation)
        assert (found.model, found.model_options) == ("resnet18", {"bias": False})
        assert found.normalisation.mean == (0.4914, 0.4822, 0.4465)
        objective = found.objective
        assert (objective.alpha, objective.ratio, objective.clean_weight) == (1.0, 1.0, 0.0)
        assert objective.beta == (1.0 if name.endswith("m") else 6.0)
        assert (objective.basis, objective.covariance, objective.covariance_momentum) == ("exact", "auto", None)
    assert recipe("pgd-at", "cifar100", "cifar").augmentation.rotation == 0


@pytest.mark.parametrize("name", NAMES)
def test_our_deviations_on_small_data(name):
    assert recipe(name).objective.alpha == 0.1
    assert recipe(name, "mnist", "mnist").objective.alpha == 0.1
    assert recipe(name, "mine", "generic").objective.alpha == 1.0
    assert recipe(name, "digits", "digits", "objective.alpha=1").objective.alpha == 1.0
    assert recipe(name, "mnist", "mnist").objective.beta == 1.0
    assert recipe(name).step_size is None


@pytest.mark.parametrize("name", NAMES)
def test_every_setting_can_be_set_in_a_line(name):
    changes = ["alpha=0.5", "beta=2", "ratio=0.3", "clean_weight=0.1", "basis=deflation", "covariance=diagonal"]
    found = recipe(name, "cifar100", "cifar", *(f"objective.{c}" for c in changes), "augmentation.rotation=5")
    assert found.augmentation.rotation == 5
    objective = build_objective(SplitNet(), found)
    assert (objective.alpha, objective.beta, objective.ratio, objective.clean_weight) == (0.5, 2.0, 0.3, 0.1)
    branch = objective.players()["style"]
    assert (branch.kind, branch.form, branch.classes, branch.dimension) == ("deflation", "diagonal", 4, 16)
    content = "cross_entropy" if name.endswith("m") else "kl"
    assert objective.attack.loss == StyleLoss(content, 2.0, 0.5)
    assert objective.attack.start == ("uniform" if name.endswith("m") else "gaussian")
    remembered = build_objective(SplitNet(), recipe(name, "digits", "digits", "objective.covariance_momentum=0.1"))
    assert remembered.players()["style"].content.momentum == remembered.players()["style"].own.momentum == 0.1
    assert (
        recipe(name, "mnist", "mnist").eps_warmup == build_objective(SplitNet(), recipe(name, "mnist", "mnist")).warmup
    )


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ("objective.alpha=-1", "objective.alpha: got -1; expected at least 0"),
        ("objective.ratio=.inf", "objective.ratio: got inf"),
        ("objective.basis=svd", "objective.basis: got 'svd'; expected 'exact' or 'deflation'"),
        ("objective.covariance_momentum=0", "objective.covariance_momentum: got 0; expected a number above 0"),
        ("objective.aplha=1", r".*objective.aplha.*did you mean 'objective.alpha'"),
        ("players.styl={}", "players: got 'styl'; .*did you mean 'style'"),
    ],
)
def test_bad_settings_are_one_line(change, line):
    with pytest.raises(InputError, match=f"^{line}") as caught:
        train("causaladv-m", changes=[change, "epochs=1"])
    assert "\n" not in str(caught.value)


def test_a_run_holds_its_branch_and_loads_as_the_same_function(run):
    saved = load_file(run.path / "players.safetensors")
    wanted = {"style/start", "style/content.covariance", "style/own.covariance", "style/own.mean", "style/own.count"}
    assert wanted <= saved.keys()
    branch = StyleBranch(100, 10, seed=4)
    branch.load_state_dict({k.removeprefix("style/"): v for k, v in saved.items() if k.startswith("style/")})
    assert int(branch.content.count) == int(branch.own.count.sum()) > 1000
    loaded = load_run(run.path)
    declared = declaring.of_run(run.path, loaded)
    images, labels = torch.rand(6, 1, 16, 16), torch.arange(6)
    features = loaded.model.features(images)
    matrix = branch.basis(loaded.model.last.weight).matrix
    expected = marginalised(branch, branch.style(features, matrix), labels, 1.0)
    found = declared[0].context(loaded.model, images, labels)["style_target"]
    torch.testing.assert_close(found, expected.detach())
    history = run.record.history[-1]
    assert {"style_shift", "style_loss", "style_accuracy", "style_leakage", "accuracy"} <= history.keys()


def test_its_own_attacks_join_the_adaptive_suite(run, monkeypatch):
    loaded = load_run(run.path)
    attacks = declaring.built(declaring.of_run(run.path, loaded), loaded.model, loaded.recipe.threat, budget("demo"))
    assert [attack.name for attack in attacks] == ["style-0", "style-0.2", "style-0.5", "style-0.8"]
    data = deconfound.data.load("digits").test
    batch = next(data.batches([torch.arange(40)]))
    clean = loaded.model(batch.images).argmax(1) == batch.labels
    standing = clean.clone()
    before = {name: value.clone() for name, value in loaded.model.state_dict().items()}
    for attack in attacks:
        made = attack(loaded.model, batch.images, batch.labels)
        assert loaded.recipe.threat.contains(made, batch.images).all()
        standing &= loaded.model(made).argmax(1) == batch.labels
        assert "style" in attack.settings()["loss"]
    assert int(standing.sum()) < int(clean.sum())
    assert all(torch.equal(value, before[name]) for name, value in loaded.model.state_dict().items())


@pytest.mark.parametrize(("name", "plain"), [("causaladv-m", "pgd-at"), ("causaladv-t", "trades")])
def test_without_style_the_weights_are_those_of_the_plain_recipe(tiny, name, plain):
    changes = tiny | {"steps": 1, "epochs": 1}
    first = train(plain, changes=changes)
    second = train(name, changes=changes | {"objective.alpha": 0})
    weights = first.model.state_dict()
    assert all(torch.equal(weights[key], value) for key, value in second.model.state_dict().items())
    shared = {"loss", "accuracy", "validation_robust"}
    for one, other in zip(first.record.history, second.record.history, strict=True):
        assert {key: one[key] for key in shared} == {key: other[key] for key in shared}


def test_a_network_without_vectors_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(InputError, match=r"^model: got 'Sequential'; .*model_options.layer=NAME") as caught:
        train(
            "causaladv-m",
            out=tmp_path / "run",
            changes={"model": "toys:tiny_net", "model_options.layer": "0", "epochs": 1},
        )
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_one_class_is_refused():
    with pytest.raises(InputError, match=r"^classes: got 1; expected a whole number of at least 2"):
        StyleBranch(16, 1)
