"""Recipes of CAFE, its game and its controls: hosts, the paper's weights, radii and schedules, the authors' form."""

from __future__ import annotations

import pytest

from deconfound.data.families import FAMILIES
from deconfound.objectives import (
    AMRGMM,
    AdversarialTraining,
    CausalAdv,
    CiiVAdversarialTraining,
    Help,
    Inoculated,
    Mart,
    Trades,
    WeightPerturbed,
)
from deconfound.recipes.registry import is_stochastic
from deconfound.recipes.resolve import names
from deconfound.recipes.stages import planned
from deconfound.recipes.training import default_run
from resolved import built, recipe

HOSTS = {
    "adv": AdversarialTraining,
    "pgd-at": AdversarialTraining,
    "trades": Trades,
    "mart": Mart,
    "awp": WeightPerturbed,
    "help": WeightPerturbed,
    "causaladv-m": CausalAdv,
    "ciiv+pgd-at": CiiVAdversarialTraining,
}


class TestBook:
    @pytest.mark.parametrize("name", [name for name in names() if "/" in name or name == "amr-gmm"])
    def test_every_recipe_and_stage_resolves_for_every_family(self, name):
        for family in FAMILIES:
            found = recipe(name, family=family)
            plans = planned(found, None)
            assert all(plan.recipe.eps == found.eps and plan.recipe.model == found.model for plan in plans)
            games = [one for one in (found, *(plan.recipe for plan in plans)) if one.objective.name == "amr-gmm"]
            assert all(game.eps_warmup == 0 for game in games)  # though mnist's family has another
            assert is_stochastic(found.objective) == ("ciiv" in name)
            assert found.selection.keep == "last" or not ("ciiv" in name or "authors" in name or name == "amr-gmm")

    @pytest.mark.parametrize(("name", "kind"), HOSTS.items())
    def test_the_hosts_and_their_controls(self, name, kind):
        found = built(f"cafe/{name}")
        assert isinstance(found, Inoculated)
        assert isinstance(found.host, kind)
        if name != "pgd-at":
            assert type(built(f"fair/{name}")) is kind

    def test_the_papers_weights_and_attacks(self):
        trades, mart, awp, helped, adv = (
            built(f"cafe/{name}").host for name in ("trades", "mart", "awp", "help", "adv")
        )
        assert (trades.beta, mart.weight, awp.gamma, awp.objective.beta) == (2, 3, 0.01, 4)
        assert isinstance(helped.objective, Help)
        assert (helped.gamma, helped.objective.gamma, helped.objective.objective.beta) == (0.01, 0.25, 4)
        for host in (trades, mart, adv, awp.objective, helped.objective.objective):
            assert host.attack.step == pytest.approx(0.23 * 0.1)
            assert host.attack.loss.__name__ == "cross_entropy"
            assert host.attack.start == "uniform"
        assert not trades.reference
        assert built("trades").reference

    def test_the_radius_is_the_papers_for_data_and_network_and_half_of_eps_elsewhere(self):
        for data, family, values in (
            ("cifar10", "cifar", (0.03, 4 / 255, 2 / 255)),
            ("svhn", "cifar", (4 / 255, 1 / 255, 1 / 255)),
            ("tiny-imagenet", "tiny", (1 / 255, 0.5 / 255, 0.5 / 255)),
        ):
            for model, gamma in zip(("vgg16", "resnet18", "wrn-34-10"), values, strict=True):
                found = recipe("cafe/mart", f"model={model}", family=family, data=data)
                assert found.objective.gamma == pytest.approx(gamma)
                assert found.model_options == ({"dropout": 0.3} if model == "wrn-34-10" else {})
                assert planned(found, None)[0].recipe.model_options == found.model_options
        assert recipe("cafe/adv").objective.gamma == 0.05
        assert recipe("cafe/adv", "eps=0.2").objective.gamma == 0.1
        assert recipe("cafe/adv", "objective.gamma=4/255").objective.gamma == 4 / 255
        assert recipe("cafe/adv", "norm=l2").objective.gamma == 0.05  # it is a radius in L-infinity
        assert recipe("cafe/adv", family="cifar", data="mine").objective.gamma == 4 / 255
        assert recipe("cafe/adv", "model=small", family="cifar", data="mine").objective.gamma == 4 / 255

    def test_the_schedules(self):
        found = recipe("cafe/adv", family="cifar")
        base, game = (plan.recipe for plan in planned(found, None))
        assert (found.epochs, found.batch_size, found.lr, found.optimizer.weight_decay) == (4, 64, 1e-3, 2e-4)
        assert (base.epochs, base.batch_size, base.lr, base.optimizer.weight_decay) == (30, 128, 0.1, 2e-4)
        assert {found.schedule.name, base.schedule.name} == {"triangular"}
        assert (game.epochs, game.batch_size, game.lr, game.optimizer.weight_decay) == (10, 128, 1e-4, 1e-5)
        assert (game.optimizer.name, game.optimizer.amsgrad, game.schedule.name) == ("adamw", True, "constant")
        fair = recipe("fair/adv", family="cifar")
        same = ("epochs", "batch_size", "lr", "optimizer", "schedule", "eps", "steps", "step_size", "selection")
        assert all(getattr(fair, key) == getattr(found, key) for key in same)

    @pytest.mark.parametrize(
        ("family", "data", "large"),
        [
            ("tiny", "zh-plus/tiny-imagenet", True),
            ("generic", "path/to/ImageNet", True),
            ("generic", "ILSVRC/imagenet-1k:train=1000+patch:rho=0.9", True),
            ("cifar", "uoft-cs/cifar10", False),
            ("generic", "path/to/photos", False),
        ],
    )
    def test_the_games_optimiser_on_imagenet_and_tiny_imagenet_is_the_authors(self, family, data, large):
        alone = recipe("amr-gmm", family=family, data=data)
        for game in (alone, planned(recipe("cafe/adv", family=family, data=data), None)[1].recipe):
            found = game.optimizer
            expected = ((0.5, 0.999), 1e-4, False) if large else ((0.9, 0.999), 1e-5, True)
            assert (found.name, found.betas, found.weight_decay, found.amsgrad) == ("adamw", *expected)

    def test_the_authors_form(self):
        found = recipe("cafe-authors/trades", family="cifar")
        assert (found.eps, found.objective.reference, found.objective.detach_target) == (0.03, "live", False)
        assert planned(found, None)[1].recipe.objective.norm == "shared"
        tiny = recipe("cafe-authors/trades", family="tiny")
        assert (tiny.eps, tiny.objective.inversion_steps) == (4 / 255, 3)
        assert built("cafe-authors/trades").reference == "live"

    @pytest.mark.parametrize("host", ["adv", "trades", "mart", "awp", "help"])
    @pytest.mark.parametrize("prefix", ["", "-authors"])
    @pytest.mark.parametrize("family", ["digits", "cifar", "tiny"])
    def test_a_control_differs_in_the_causal_term_alone(self, host, prefix, family):
        cafe, fair = (recipe(f"{kind}{prefix}/{host}", family=family).model_dump() for kind in ("cafe", "fair"))
        own = {"recipe", "objective", "stages"}
        assert {key: fair[key] for key in fair if key not in own} == {key: cafe[key] for key in cafe if key not in own}
        assert fair["objective"]["host"] == cafe["objective"]["host"]
        assert fair["stages"]["base"] == cafe["stages"]["base"]

    def test_the_game(self):
        found = built("amr-gmm", "objective.penalty=2", "objective.test=none", "objective.norm=shared")
        assert isinstance(found, AMRGMM)
        assert (found.penalty, found.g, found.norm) == (2, None, "shared")
        vectors = built("amr-gmm", "objective.layer=linear1", "objective.moment=class_residual")
        assert type(vectors.h).__name__ == "LinearNet"
        assert vectors.moment.name == "class_residual"
        deeper = built("cafe/adv", "stages.amr.objective.layer=linear1")
        assert deeper.causal.layer == "linear1"

    def test_the_mode_of_the_hosts_attack_is_its_own(self):
        found = recipe("cafe/adv", "attack_mode=train")
        assert [plan.recipe.attack_mode for plan in planned(found, None)] == ["eval", "eval"]
        assert built("cafe/adv", "attack_mode=train").host.attack.mode == "train"

    def test_runs_have_names_without_slash(self):
        assert str(default_run("cafe/trades", "a/b")) == "runs/cafe-trades-b"
