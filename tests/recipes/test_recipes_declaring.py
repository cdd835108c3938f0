"""Attacks that a defence declares against itself: the network's own, and those that need a run's players."""

from __future__ import annotations

import shutil
from dataclasses import replace

import pytest
import torch
from torch import nn

import deconfound
from deconfound.attacks import PGD
from deconfound.attacks.budgets import budget
from deconfound.attacks.declared import Declared
from deconfound.attacks.losses import margin
from deconfound.attacks.suites import Suite
from deconfound.core.streams import Streams
from deconfound.core.threat import ThreatModel
from deconfound.core.types import DeclaredAttack
from deconfound.errors import InputError
from deconfound.recipes import declaring
from deconfound.recipes.evaluating import Judging
from deconfound.recipes.loading import load_run
from deconfound.recipes.registry import OBJECTIVES
from deconfound.recipes.targets import Target, evaluate_target
from deconfound.store.weights import read_weights, write_weights
from judged import Noisy, untimed
from toys import ToySource, tiny_net

THREAT = ThreatModel("linf", 0.06)


class Masked(nn.Module):
    """Quantised input: no gradient; the network inside is its declared surrogate."""

    def __init__(self, declared=None):
        super().__init__()
        self.net, self.declared = tiny_net(), declared

    def forward(self, images):
        return self.net((images * 64).round() / 64)

    def attack_surrogates(self):
        bpda = DeclaredAttack(name="bpda", surrogate=self.net, settings={"steps": 7})
        return (bpda,) if self.declared is None else self.declared


@pytest.fixture(scope="module")
def source():
    found = ToySource(count=40)
    with torch.no_grad():
        found.labels = Masked()(found.images).argmax(1)
    return found


@pytest.fixture
def light(monkeypatch):
    """The common part of ``adaptive`` is one gradient step, so that its members of its own remain to be seen."""

    def standard(setting):
        return Suite(name="standard", attacks=(PGD(setting.threat, steps=1, start="none", name="common"),))

    monkeypatch.setattr("deconfound.attacks.suites.standard", standard)
    monkeypatch.setattr("deconfound.attacks.suites.rand", standard)


def adaptive(model, source, **settings):
    settings = {"threat": THREAT, "suite": "adaptive", "checks": False, "curve": False} | settings
    return deconfound.evaluate(model, source, **settings)


class TestOfAModel:
    def test_the_suite_contains_it_and_it_finds_what_gradients_do_not(self, light, source):
        model = Masked()
        record = adaptive(model, source)
        common, bpda = record.attacks
        assert (common.name, bpda.name) == ("common", "bpda")
        assert common.survivors == 40  # no gradient, no step
        assert bpda.survivors < 30
        assert {o.broken_by for o in record.outcomes} == {"bpda", None}
        settings = bpda.settings
        assert (settings["kind"], settings["steps"], settings["draws"]) == ("apgd", 7, 1)
        assert (settings["declared"], settings["own_surrogate"]) == (True, True)
        assert not any("declares no attack" in note for note in record.notes)

    def test_other_suites_do_not(self, light, source):
        record = adaptive(Masked(), source, suite="standard")
        assert [attack.name for attack in record.attacks] == ["common"]

    def test_a_model_without_any_says_so(self, light, source):
        record = adaptive(tiny_net(), source)
        assert "the defence declares no attack of its own" in record.notes

    def test_bare_weights_are_enough(self, light, source):
        record = adaptive(Masked(), source.images, labels=source.labels)
        assert [attack.name for attack in record.attacks] == ["common", "bpda"]

    def test_further_ones_may_be_given(self, light, source):
        given = DeclaredAttack(name="mine", loss=margin, settings={"attack": "pgd", "steps": 3})
        record = adaptive(Masked(), source, declared=[given])
        assert [attack.name for attack in record.attacks] == ["common", "bpda", "mine"]
        assert record.attacks[2].settings["kind"] == "pgd"
        assert record.attacks[2].settings["loss"] == "margin"
        assert not record.attacks[2].settings["own_surrogate"]

    @pytest.mark.parametrize(
        ("settings", "match"),
        [
            ({"attack": "nope"}, "attack: got 'nope'"),
            ({"stepz": 3}, r"apgd.stepz: got 3; expected a setting of apgd"),
            ({"steps": 0}, "steps: got 0"),
        ],
    )
    def test_one_that_cannot_be_built_is_one_line(self, light, source, settings, match):
        wrong = Masked((DeclaredAttack(name="wrong", settings=settings),))
        with pytest.raises(InputError, match=match) as caught:
            adaptive(wrong, source)
        assert "\n" not in str(caught.value)

    def test_two_of_one_name_are_refused(self, light, source):
        twice = Masked((DeclaredAttack(name="common"),))
        with pytest.raises(InputError, match="different names"):
            adaptive(twice, source)

    def test_the_budget_says_how_much(self):
        declared = (DeclaredAttack(name="a"), DeclaredAttack(name="b", surrogate=tiny_net()))
        for name in ("demo", "normal"):
            spent = budget(name)
            ordinary = declaring.built(declared, tiny_net(), THREAT, spent)
            assert [(a.settings()["steps"], a.settings()["draws"]) for a in ordinary] == [(spent.steps, 1)] * 2
            random, own = declaring.built(declared, Noisy(tiny_net()), THREAT, spent)
            assert random.settings()["draws"] == spent.draws
            assert own.settings()["draws"] == 1  # its surrogate is not random

    def test_a_random_model_is_judged_by_its_majority(self, light, source):
        class Defended(Noisy):
            def attack_surrogates(self):
                return (DeclaredAttack(name="mean", surrogate=self.net, settings={"steps": 5}),)

        record = adaptive(Defended(tiny_net(), 0.05), source, budget="demo")
        assert [attack.name for attack in record.attacks] == ["common", "mean"]
        assert len(record.spread.robust) == 5
        assert record.robust_accuracy < record.clean_accuracy

    def test_a_random_model_that_did_not_meet_its_own_is_not_believed(self, light, source):
        class Defended(Noisy):
            def attack_surrogates(self):
                return (DeclaredAttack(name="mean", surrogate=self.net, settings={"steps": 5}),)

        def declared(model, suite):
            asked = {"suite": suite, "budget": "demo", "checks": True, "index": torch.arange(8)}
            record = adaptive(model, source, **asked)
            (found,) = (check for check in record.verdict.checks if check.name == "declared attacks were run")
            return found.passed, record.verdict

        passed, verdict = declared(Defended(tiny_net(), 0.01), "rand")
        assert (passed, verdict.reliable) == (False, False)
        assert any("leaves out mean" in reason for reason in verdict.reasons)
        assert declared(Defended(tiny_net(), 0.01), "adaptive")[0] is True
        assert declared(Noisy(tiny_net(), 0.01), "rand")[0] is None
        assert declared(Masked(), "quick")[0] is None  # another check's business


class TestDeclared:
    """What is climbed, knowing what, and who judges."""

    @pytest.fixture
    def examples(self, source):
        return Masked(), source.images, source.labels

    def test_it_climbs_its_surrogate_as_if_that_were_the_model(self, examples):
        model, images, labels = examples
        attack = PGD(THREAT, steps=5)
        streams = Streams(2, range(40))
        made = Declared(attack, model=model, surrogate=model.net, name="own")
        found = made(model, images, labels, streams)
        assert torch.equal(found, attack(model.net, images, labels, streams, judge=model))
        changed = (found != images).flatten(1).any(dim=1)
        assert 0 < int(changed.sum()) < 40
        assert (model(found).argmax(1) != labels)[changed].all()

    def test_a_judge_of_its_own_stays(self, examples):
        model, images, labels = examples
        never = lambda images, labels, streams: torch.zeros(len(labels), dtype=torch.bool)  # noqa: E731
        made = Declared(PGD(THREAT, steps=2), model=model, surrogate=model.net)
        assert torch.equal(made(model, images, labels, judge=never), images)

    def test_without_a_surrogate_it_climbs_what_the_evaluation_climbs(self, examples):
        model, images, labels = examples
        fast, seen = tiny_net(3), []
        fast.register_forward_hook(lambda *_: seen.append(1))
        Declared(PGD(THREAT, steps=3), model=model)(fast, images, labels)
        assert len(seen) >= 3

    def test_context_is_made_from_the_model_in_eval_mode_and_reaches_the_loss_row_by_row(self, examples):
        model, images, labels = examples
        modes, aligned = [], []

        def context(asked, given, truth):
            modes.append((asked is model, asked.training, len(given)))
            return {"clean": asked.net(given), "number": torch.arange(len(given))}

        def loss(climbed, x, y, knows):
            assert not knows["clean"].requires_grad
            aligned.append(bool((knows["other"] == 2 * knows["number"]).all()) and len(knows["clean"]) == len(x))
            return (climbed(x) - knows["clean"]).square().sum(dim=1)

        model.train()
        made = Declared(PGD(THREAT, steps=4, loss=loss), model=model, surrogate=model.net, context=context)
        made(model, images, labels, context={"other": 2 * torch.arange(40)})
        assert model.training
        assert modes == [(True, False, 40)]
        assert all(aligned)
        assert len(aligned) >= 4
        assert all(p.grad is None for p in model.parameters())

    def test_names_settings_and_radii(self, examples):
        made = Declared(PGD(THREAT, steps=2), model=examples[0])
        assert (made.name, made.threat) == ("pgd-2", THREAT)
        assert made.settings()["own_surrogate"] is False
        moved = made.at(THREAT.with_eps(0.5))
        assert moved.threat.eps == moved.settings()["eps"] == 0.5
        assert made(examples[0], examples[1][:0], examples[2][:0]).shape[0] == 0


class Played:
    """An objective with a second player, on whom one of its attacks depends."""

    def __init__(self, model):
        self.model, self.critic = model, nn.Linear(2, 2)

    def players(self):
        return {"model": self.model, "critic": self.critic}

    def declared_attacks(self):
        def loss(climbed, x, y, knows):
            return margin(climbed, x, y, knows) * knows["weight"]

        def context(model, images, labels):
            return {"weight": self.critic.weight.sum().expand(len(images))}

        return (DeclaredAttack(name="critic", loss=loss, context=context, settings={"steps": 5}),)


@pytest.fixture
def run(trained, tmp_path, monkeypatch):
    """A run whose objective has a critic that points uphill; one with other weights would point down."""
    folder = shutil.copytree(trained.path, tmp_path / "run")
    played = lambda model, recipe: Played(model)  # noqa: E731
    changed = dict(OBJECTIVES) | {"pgd-at": replace(OBJECTIVES["pgd-at"], build=played)}
    monkeypatch.setattr("deconfound.recipes.registry.OBJECTIVES", changed)
    tensors, metadata = read_weights(folder / "players.safetensors")
    tensors |= {"critic/weight": torch.ones(2, 2), "critic/bias": torch.zeros(2)}
    write_weights(folder / "players.safetensors", tensors, metadata)
    return folder


class TestOfAnObjective:
    judging = Judging(suite="adaptive", checks=False, curve=False, batch_size=20)

    def evaluate(self, target, tmp_path, **more):
        target = Target(**{"target": str(target), "n": 40} | more)
        return evaluate_target(target, self.judging, out=tmp_path / "record.json", overwrite=True)[0]

    def test_players_come_from_the_run(self, light, run, tmp_path):
        loaded = load_run(run)
        (declared,) = declaring.of_run(run, loaded)
        weight = declared.context(loaded.model, torch.zeros(3, 1, 8, 8), None)["weight"]
        assert weight.tolist() == [4.0] * 3
        record = self.evaluate(run, tmp_path)
        assert [attack.name for attack in record.attacks] == ["common", "critic"]
        assert record.attacks[1].survivors < record.attacks[0].survivors
        by_file = self.evaluate(run / "model.safetensors", tmp_path)
        assert untimed(by_file, "model") == untimed(record, "model")

    def test_a_critic_that_points_down_finds_less(self, light, run, tmp_path):
        best = self.evaluate(run, tmp_path).attacks[1].survivors
        tensors, metadata = read_weights(run / "players.safetensors")
        tensors["critic/weight"] *= -1
        write_weights(run / "players.safetensors", tensors, metadata)
        assert self.evaluate(run, tmp_path).attacks[1].survivors > best

    @pytest.mark.parametrize("damage", ["no file", "no critic", "other shape"])
    def test_a_run_without_fitting_players_is_refused(self, light, run, tmp_path, damage):
        tensors, metadata = read_weights(run / "players.safetensors")
        if damage == "no file":
            (run / "players.safetensors").unlink()
        else:
            others = {name: value for name, value in tensors.items() if not name.startswith("critic/")}
            others |= (
                {"critic/weight": torch.ones(3, 3), "critic/bias": torch.ones(2)} if damage == "other shape" else {}
            )
            write_weights(run / "players.safetensors", others, metadata)
        with pytest.raises(InputError, match="players") as caught:
            self.evaluate(run, tmp_path)
        assert "\n" not in str(caught.value)
        assert not (tmp_path / "record.json").exists()

    def test_bare_weights_leave_it_out_and_say_why(self, light, run, tmp_path):
        weights = str(run / "model.safetensors")
        record = self.evaluate("small", tmp_path, weights=weights, data="digits")
        assert [attack.name for attack in record.attacks] == ["common"]
        reason = "bare weights: attacks that a training objective declares need its run and were left out"
        assert reason in record.notes
        assert reason not in self.evaluate(run, tmp_path).notes
