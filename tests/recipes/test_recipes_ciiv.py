"""CiiV by its recipes: settings, runs, evaluation with its own attacks."""

from __future__ import annotations

import pytest
import torch

import deconfound
from deconfound.attacks import suites
from deconfound.attacks.budgets import budget
from deconfound.attacks.gradient import PGD
from deconfound.attacks.suites import Suite
from deconfound.core.protocols import StochasticClassifier
from deconfound.core.streams import Streams
from deconfound.core.threat import ThreatModel
from deconfound.core.types import Batch, Progress
from deconfound.errors import InputError
from deconfound.models.ciiv import CiiV
from deconfound.models.ciiv_surrogates import SampledSurrogate
from deconfound.recipes import declaring, training
from deconfound.recipes.evaluating import Judging
from deconfound.recipes.loading import build_model, load_run
from deconfound.recipes.registry import build_objective
from deconfound.recipes.resolve import parse_changes, resolve
from deconfound.recipes.targets import Target, evaluate_target
from deconfound.recipes.training import train
from toys import SplitNet, ToySource

NAMES = ("ciiv", "ciiv+mixup", "ciiv+pgd-at")


def recipe(name, data="digits", family="digits", *changes):
    return resolve({"recipe": name}, data=data, family=family, changes=parse_changes(changes))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A short run on digits."""
    changes = {"epochs": 2, "sampler.loops": 3}
    return train("ciiv", out=tmp_path_factory.mktemp("runs") / "ciiv", changes=changes)


class TestSettings:
    @pytest.mark.parametrize("name", NAMES)
    def test_the_authors_on_cifar(self, name):
        found = recipe(name, "uoft-cs/cifar10", "cifar")
        assert (found.epochs, found.batch_size, found.lr, found.model) == (110, 128, 0.1, "preact-resnet18")
        assert (found.optimizer.name, found.optimizer.momentum, found.optimizer.weight_decay) == ("sgd", 0.9, 5e-4)
        begins = [milestone * 110 for milestone in found.schedule.milestones]
        assert [next(e for e in range(111) if e / 110 >= m / 110 - 1e-9) for m in begins] == [10, 100, 105]
        assert (found.augmentation.crop, found.augmentation.padding, found.augmentation.flip) == (4, "reflect", True)
        assert found.normalisation.std == (0.2471, 0.2435, 0.2616)
        sampler = found.sampler.sampling()
        assert (sampler.version, sampler.loops, sampler.samples, sampler.amplitude) == ("v2", 9, 3, 0.9)
        assert (sampler.centres, sampler.mask, sampler.mask_scope) == ("grid", "power", "example")
        assert (found.objective.weight, found.objective.growth, found.objective.distance) == (0.1, 10, "smooth_l1")
        assert found.selection.keep == "last"
        assert found.objective.mixup == (1.0 if name == "ciiv+mixup" else 0.0)

    def test_the_other_families(self):
        mnist = recipe("ciiv+pgd-at", "mnist", "mnist")
        assert (mnist.image_size, mnist.sampler.version, mnist.sampler.loops) == (32, "v1", 20)
        assert (mnist.objective.name, mnist.sampler.amplitude) == ("ciiv-at", 0.8)
        shapes = recipe("ciiv", "shapes", "shapes")
        assert (shapes.sampler.points, shapes.epochs, shapes.normalisation) == ((20, 32, 44), 7, None)
        objective = build_objective(build_model(shapes, 2, (3, 64, 64)), shapes)
        weights = [objective.view_loss.weight_at(_at(epoch, 7)) for epoch in range(7)]
        assert weights == pytest.approx([0.1] * 5 + [1.0] * 2)
        tiny = recipe("ciiv", "mini-imagenet", "tiny")
        assert (tiny.sampler.version, tiny.sampler.amplitude, tiny.sampler.sampling().points) == ("v2", 0.8, None)

    def test_every_setting_can_be_set_in_a_line(self):
        changes = ["sampler.version=v1", "sampler.loops=4", "sampler.samples=2", "sampler.mask=linear"]
        changes += ["sampler.centres=random", "sampler.mask_scope=batch", "sampler.per_centre_norm=true"]
        changes += ["normalisation=null", "objective.weight=0.5", "objective.distance=l2", "objective.ce_weight=2"]
        found = recipe("ciiv", "digits", "digits", *changes, "model=vgg11", "model_options.width=2")
        model = build_model(found, 10, (1, 16, 16))
        assert isinstance(model, CiiV)
        assert model.inner.channels == 2
        objective = build_objective(model, found)
        loss = objective.view_loss
        assert (loss.weight, loss.distance, loss.ce_weight, loss.against) == (0.5, "l2", 2, "all")
        assert model.draw(torch.rand(2, 1, 16, 16), Streams(0, range(2)), 1).shape == (1, 2, 10)

    @pytest.mark.parametrize("norm", ["linf", "l2"])
    @pytest.mark.parametrize("attack", ["pgd", "fgsm", "fgsm-rs"])
    def test_the_inner_attack(self, norm, attack):
        steps = 3 if attack == "pgd" else 1
        changes = [f"norm={norm}", f"objective.attack={attack}", f"steps={steps}"]
        found = recipe("ciiv+pgd-at", "digits", "digits", *changes)
        objective = build_objective(build_model(found, 10, (1, 16, 16)), found)
        assert isinstance(objective.climbed, SampledSurrogate)
        assert (objective.attack.threat.norm, objective.attack.steps, objective.attack.keep) == (norm, steps, "last")
        assert objective.attack.start == ("none" if attack == "fgsm" else "uniform")
        raw = recipe("ciiv+pgd-at", "digits", "digits", *changes, "objective.gradient=raw")
        objective = build_objective(build_model(raw, 10, (1, 16, 16)), raw)
        assert objective.climbed is objective.model

    @pytest.mark.parametrize("gradient", ["expected", "wide", "raw"])
    def test_the_inner_attack_may_look_less_often(self, gradient):
        found = recipe(
            "ciiv+pgd-at", "digits", "digits", f"objective.gradient={gradient}", "objective.attack_loops=2", "steps=2"
        )
        objective = build_objective(build_model(found, 10, (1, 16, 16)), found)
        looking = objective.climbed if gradient == "raw" else objective.climbed.model
        assert (looking.sampling.loops, objective.model.sampling.loops) == (2, 9)
        assert looking.inner is objective.model.inner
        batch = Batch(images=torch.rand(3, 1, 16, 16), labels=torch.tensor([0, 1, 2]), index=torch.arange(3))
        assert len(looking.views(batch.images, Streams(0, batch.index))[1]) == 2
        adversarial = objective.craft(batch, _at(0, 1), Streams(0, batch.index))
        assert not torch.equal(adversarial, batch.images)
        objective.loss(batch, adversarial, _at(0, 1), Streams(0, batch.index)).total.backward()
        assert all(weight.grad is not None for weight in objective.model.parameters())

    @pytest.mark.parametrize(
        ("name", "changes", "line"),
        [
            ("ciiv", ["sampler.loops=0"], "sampler.loops: got 0; expected a whole number of at least 1"),
            ("ciiv", ["sampler.loops=12"], "sampler.loops: got 12; expected at most 9 with centres=grid"),
            ("ciiv", ["sampler.loops=1"], "objective.weight: got 0.1; expected 0 with sampler.loops=1"),
            ("ciiv", ["sampler.amplitude=2.5"], "sampler.amplitude: got 2.5; expected a number above 0 and at most 2"),
            ("ciiv", ["sampler.version=v1"], "normalisation: got .*; expected none with version v1"),
            ("ciiv", ["sampler.loop=3"], r".*sampler.loop.*did you mean 'sampler.loops'"),
            ("ciiv", ["sampler=null"], "model: got 'Small'; expected a network that looks several times"),
            (
                "standard",
                ["sampler.loops=3"],
                "sampler: got .* none with standard, .*; amr-gmm, ciiv, ciiv-at",
            ),
            ("smoothing", ["sampler.loops=3"], "sampler: got .*; expected none with smoothing"),
            ("fair/trades", ["sampler.loops=3"], "sampler: got .*; expected none with fine-tune"),
            ("ciiv", ["image_size=3"], r"size: got \(3, 3\); expected .* of at least 4 pixels"),
            ("ciiv", ["objective.distance=l1"], "objective.distance: got 'l1'"),
            ("ciiv+pgd-at", ["objective.attack=fgsm"], "steps: got 10; expected 1 for the attack fgsm"),
            ("ciiv+pgd-at", ["objective.attack_loops=0"], "objective.attack_loops: got 0; expected at least 1"),
            (
                "ciiv+pgd-at",
                ["objective.attack_loops=12"],
                "objective.attack_loops: got 12; expected at most 9 with centres=grid",
            ),
            ("ciiv", ["model=toys:tiny_net", "model_options.layer=0"], "model: got"),
        ],
    )
    def test_bad_ones_are_one_line(self, name, changes, line, tmp_path):
        with pytest.raises(InputError, match=f"^{line}") as caught:
            train(name, changes=[*changes, "epochs=1"], out=tmp_path / "run")
        assert "\n" not in str(caught.value)
        assert not (tmp_path / "run").exists()

    def test_one_view_without_the_consistency_term(self):
        found = recipe("ciiv", "digits", "digits", "sampler.loops=1", "objective.weight=0")
        build_objective(build_model(found, 10, (1, 16, 16)), found)


def _at(epoch, epochs):
    return Progress(epoch=epoch, epochs=epochs)


class TestRuns:
    def test_it_learns_and_logs_its_parts(self, run):
        last = run.record.history[-1]
        assert {"cross_entropy", "consistency", "consistency_weight", "accuracy", "validation_clean"} <= last.keys()
        assert "validation_robust" not in last  # a random model's PGD accuracy would select for masking
        assert last["accuracy"] > 0.5
        assert run.record.selection == "last"

    def test_it_loads_as_the_same_random_function(self, run):
        loaded = load_run(run.path)
        images, streams = torch.rand(4, 1, 16, 16), Streams(5, range(4))
        assert isinstance(loaded.model, CiiV)
        assert torch.equal(loaded.model.draw(images, streams, 2), run.model.draw(images, streams, 2))

    @pytest.mark.parametrize("name", ["ciiv+mixup", "ciiv+pgd-at"])
    def test_the_others_train(self, name, tmp_path):
        changes = {"epochs": 1, "steps": 1, "sampler.loops": 2, "sampler.samples": 1}
        found = train(name, changes=changes)
        assert found.record.history[-1]["loss"] > 0
        assert isinstance(found.model, CiiV)

    def test_a_family_decides_on_the_size_of_the_images(self, monkeypatch):
        """Known only after the data: they are read again at that size."""
        taken = []

        def load_data(name, *, size=None, **more):
            taken.append(size)
            return deconfound.data.load("digits", size=size, **more)

        monkeypatch.setattr(training, "load_data", load_data)
        changes = {"epochs": 1, "sampler.loops": 2, "sampler.samples": 1, "batch_size": 512}
        monkeypatch.setattr(training, "resolve", _as_mnist(training.resolve))
        found = train("ciiv", changes=changes)
        assert taken == [None, 32]
        assert found.model.size == (32, 32)


def _as_mnist(original):
    def wrapped(spec, *, data, family, changes=None):
        return original(spec, data=data, family="mnist" if family == "digits" else family, changes=changes)

    return wrapped


class TestJudging:
    def evaluate(self, run, tmp_path, n=12, **judging):
        judging = Judging(**{"checks": False, "curve": False, "batch_size": 12, "budget": "demo"} | judging)
        return evaluate_target(Target(target=str(run.path), n=n), judging, out=tmp_path / "r.json", overwrite=True)[0]

    @pytest.mark.parametrize("suite", ["standard", "fast", "plus", "quick"])
    def test_suites_for_deterministic_models_are_refused(self, run, tmp_path, suite):
        with pytest.raises(InputError, match=r"^suite: .*; expected rand \(or adaptive\)"):
            self.evaluate(run, tmp_path, suite=suite)

    def test_adaptive_runs_everything_it_declares(self, run, tmp_path, monkeypatch):
        light = lambda setting: Suite(name="rand", attacks=(PGD(setting.threat, steps=1, name="common"),))  # noqa: E731
        monkeypatch.setattr("deconfound.attacks.suites.rand", light)
        record = self.evaluate(run, tmp_path, suite="adaptive")
        names = [attack.name for attack in load_run(run.path).model.attack_surrogates()]
        assert [attack.name for attack in record.attacks] == ["common", *names]
        draws = [attack.settings["draws"] for attack in record.attacks[1:]]
        assert draws == [1] * 5 + [budget("demo").draws] * 4
        assert all(attack.settings["own_surrogate"] for attack in record.attacks[1:])
        assert len(record.spread.robust) == 5
        assert record.robust_accuracy < record.clean_accuracy

    def test_the_budgets_attacks(self, run):
        model = load_run(run.path).model
        made = declaring.built(declaring.of_model(model), model, ThreatModel("linf", 0.1), budget("normal"))
        spent = [(attack.settings()["steps"], attack.settings()["draws"]) for attack in made]
        assert spent == [(100, 1)] * 5 + [(100, 20)] * 4
        rand = suites.suite("rand", suites.Setting(threat=ThreatModel("linf", 0.1), stochastic=True)).attacks
        assert [attack.settings()["draws"] for attack in rand] == [20, 20, 5, 5]

    def test_attacks_may_climb_fewer_views_than_predict(self, run, tmp_path, monkeypatch):
        seen = []
        original = CiiV.views

        def views(model, images, streams, slope="raw"):
            seen.append((model.sampling.loops, images.requires_grad))
            return original(model, images, streams, slope)

        monkeypatch.setattr(CiiV, "views", views)
        light = lambda setting: Suite(name="rand", attacks=(PGD(setting.threat, steps=2),))  # noqa: E731
        monkeypatch.setattr("deconfound.attacks.suites.rand", light)
        monkeypatch.setattr("deconfound.attacks.suites._makers", lambda: {"rand": light})
        record = self.evaluate(run, tmp_path, n=6, suite="rand", loops=1)
        assert {loops for loops, climbed in seen if climbed} == {1}
        assert {loops for loops, climbed in seen if not climbed} >= {3}
        assert record.surrogate == "the model with 1 of its views, its network in float32, folded"
        seen.clear()
        self.evaluate(run, tmp_path, n=6, suite="rand")
        assert {loops for loops, _ in seen} == {3}

    def test_an_attacker_that_does_not_know_of_the_randomness(self, run, tmp_path):
        one = self.evaluate(run, tmp_path, n=6, suite="pgd-2", loops=1, draws=1)
        assert one.attacks[0].settings["draws"] == 1
        usual = self.evaluate(run, tmp_path, n=6, suite="pgd-2")
        assert usual.attacks[0].settings["draws"] == budget("demo").draws
        with pytest.raises(InputError, match=r"^draws: got 0; expected a whole number of at least 1, or None"):
            Judging(draws=0)

    def test_loops_of_a_model_that_has_none(self):
        source = ToySource(4)
        with pytest.raises(InputError, match=r"^loops: got 1; expected none for a network"):
            deconfound.evaluate(SplitNet(), source, threat=ThreatModel("linf", 0.1), suite="quick", loops=1)

    def test_the_papers_columns(self):
        threat = ThreatModel("linf", "8/255")
        columns = suites.suite("ciiv-paper", suites.Setting(threat=threat, stochastic=True)).columns
        attacks = {column.attack.name: column.attack for column in columns}
        assert attacks["pgd-10"].settings()["step_size"] == pytest.approx(2 / 255)
        assert attacks["pgd-100"].settings()["step_size"] == pytest.approx(2 / 255)
        assert attacks["fgsm-12eps"].threat.eps == pytest.approx(96 / 255)
        assert attacks["pgd-l2-20"].threat.eps == pytest.approx(128 / 255)
        assert attacks["pgd-l2-20-wide"].threat.eps == pytest.approx(1)
        assert attacks["spsa-20"].threat.eps == pytest.approx(16 / 255)
        assert attacks["noise-gaussian-100"].settings()["sigma"] == 0.1

    def test_it_is_declared_random(self, run):
        assert isinstance(run.model, StochasticClassifier)
