"""Defences of one's own: an ``Entry`` by ``module:NAME`` is trained, resumed, reopened and judged like ours."""

from __future__ import annotations

import sys
from dataclasses import replace
from types import ModuleType

import pytest
import torch

from deconfound.core.types import DeclaredAttack
from deconfound.errors import InputError
from deconfound.functional.losses import cross_entropy
from deconfound.objectives import AdversarialTraining
from deconfound.recipes import Entry, Judging, ObjectiveSettings, Target, evaluate_target, inner_attack, load, train
from deconfound.recipes.resolve import about, resolve
from deconfound.recipes.training import default_run

NAME = "my_own_defence:HALF"


class HalfSettings(ObjectiveSettings):
    share: float = 0.5


class Half(AdversarialTraining):
    """PGD-AT with its loss scaled."""

    def __init__(self, model, recipe):
        super().__init__(model, inner_attack(recipe))
        self.share = recipe.objective.share

    def loss(self, batch, adversarial, *rest):
        host = super().loss(batch, adversarial, *rest)
        return host._replace(total=self.share * host.total)

    def declared_attacks(self):
        return (DeclaredAttack(name="own", loss=own, settings={"attack": "pgd", "steps": 2}),)


def own(model, images, labels, context):
    return cross_entropy(model(images), labels)


@pytest.fixture(autouse=True)
def module(monkeypatch):
    found = ModuleType("my_own_defence")
    found.HALF, found.NUMBER = Entry("half of PGD-AT", HalfSettings, Half), 3
    monkeypatch.setitem(sys.modules, "my_own_defence", found)
    return found


def test_it_is_a_recipe_on_the_familys_settings():
    recipe = resolve({"recipe": NAME}, data="digits", family="digits", changes={"objective": {"share": 0.25}})
    ours = resolve({"recipe": "pgd-at"}, data="digits", family="digits")
    assert (recipe.objective.name, recipe.objective.share) == (NAME, 0.25)
    assert (recipe.model, recipe.eps, recipe.epochs) == (ours.model, ours.eps, ours.epochs)
    assert (about(NAME), str(default_run(NAME))) == ("half of PGD-AT", "runs/my_own_defence-HALF-digits")


def test_a_whole_share_is_pgd_at_bit_for_bit_and_a_half_is_not(tiny):
    def weights(name, **more):
        state = train(
            name,
            data="digits:train=128",
            changes=tiny | {"epochs": 1, "selection.keep": "last", "selection.size": 0} | more,
        ).model.state_dict()
        return torch.cat([tensor.flatten() for tensor in state.values()])

    whole, usual, half = weights(NAME, **{"objective.share": 1.0}), weights("pgd-at"), weights(NAME)
    assert torch.equal(whole, usual)
    assert not torch.equal(whole, half)


def test_a_run_of_it_is_reopened_and_meets_what_it_declares(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr("deconfound.attacks.suites.standard", lambda setting: Empty())
    trained = train(NAME, out=tmp_path / "run", changes=tiny | {"epochs": 1})
    again, kept = load(tmp_path / "run").state_dict(), trained.model.state_dict()
    assert all(torch.equal(again[key], kept[key]) for key in kept)
    record, _ = evaluate_target(Target(target=str(tmp_path / "run"), n=20), Judging(suite="adaptive", checks=False))
    assert (record.defence, [attack.name for attack in record.attacks]) == (NAME, ["own"])
    monkeypatch.delitem(sys.modules, "my_own_defence")
    with pytest.raises(InputError, match="'my_own_defence:HALF'; expected a module that can be imported"):
        load(tmp_path / "run")


class Empty:
    attacks = ()


def test_one_without_an_adversarial_example_takes_no_awp(module):
    module.HALF = replace(module.HALF, adversarial=False)
    with pytest.raises(InputError, match=r"awp: .* none with my_own_defence:HALF"):
        resolve({"recipe": NAME}, data="digits", family="digits", changes={"awp": {"gamma": 0.005}})


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("my_own_defence:HALVE", "did you mean 'my_own_defence:HALF'"),
        ("my_own_defence:NUMBER", "a recipes.Entry, not int"),
        ("no_such_module:HALF", "a module that can be imported"),
    ],
)
def test_what_is_no_entry_is_said_and_nothing_is_written(name, said, tmp_path):
    with pytest.raises(InputError, match=said):
        train(name, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()
    with pytest.raises(InputError, match=said):
        train("pgd-at", out=tmp_path / "run", changes={"objective": name})
    assert not (tmp_path / "run").exists()
