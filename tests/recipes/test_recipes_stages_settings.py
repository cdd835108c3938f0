"""Hosts, their weight perturbation and the stages that they need, as recipes name them."""

from __future__ import annotations

import pytest

from deconfound.errors import InputError
from deconfound.models import Smoothed
from deconfound.objectives import CausalAdv, Help, Mart, Smoothing, Trades, WeightPerturbed
from deconfound.recipes.loading import build_model
from deconfound.recipes.registry import OBJECTIVES, build_objective
from deconfound.recipes.resolve import parse_changes, read_spec, resolve
from toys import stand_ins


def recipe(name, *words, family="digits"):
    return resolve(read_spec(name), data="digits", family=family, changes=parse_changes(words))


class TestSettings:
    def built(self, name, *words, family="digits"):
        found = recipe(name, *words, "model=small", "normalisation=null", family=family)
        return build_objective(build_model(found, 4, (1, 16, 16)), found, stand_ins(found, 4, (1, 16, 16)))

    def test_awp_goes_around_any_host_in_one_line(self):
        for name, host in (("trades", Trades), ("mart", Mart), ("help", Help), ("causaladv-m", CausalAdv)):
            found = self.built(name, "awp.gamma=0.02", "awp.warmup=0.5")
            assert isinstance(found, WeightPerturbed)
            assert isinstance(found.objective, host)
            assert (found.gamma, found.warmup) == (0.02, 0.5)
            assert not isinstance(self.built(name), WeightPerturbed)
        style = self.built("help", "objective.host=causaladv-t", "awp.gamma=0.02")
        assert style.players().keys() == {"model", "style", "standard"}
        assert not isinstance(self.built("awp", "awp=null"), WeightPerturbed)

    def test_the_books_settings_are_the_papers(self):
        for name, gamma, host in (("awp", 0.01, None), ("pgd-at+awp", 0.01, None), ("trades+awp", 0.005, 6)):
            for family in ("cifar", "digits"):
                found = self.built(name, family=family)
                assert found.gamma == gamma
                assert host is None or found.objective.beta == host
        cifar, mnist = (self.built("help", family=family) for family in ("cifar", "mnist"))
        assert (cifar.gamma, cifar.reach, cifar.objective.beta, mnist.objective.beta) == (0.5, 2.0, 2.5, 1.0)
        assert self.built("mart", family="cifar").weight == 5
        assert self.built("trades+awp", family="mnist").objective.beta == 1

    @pytest.mark.parametrize(
        ("name", "words", "gamma"),
        [
            ("pgd-at", "", 0.01),
            ("trades", "", 0.005),
            ("causaladv-m", "", 0.005),
            ("help", "", 0.005),
            ("help", "objective.host=pgd-at", 0.01),
            ("fair/adv", "", 0.01),
            ("fair/trades", "", 0.005),
            ("cafe/adv", "", 0.01),
            ("cafe/help", "awp.gamma=null objective.host.host=pgd-at", 0.01),
            ("pgd-at", "awp.gamma=0.002", 0.002),
            ("pgd-at", "awp.gamma=0", 0.0),
        ],
    )
    def test_the_weight_perturbation_is_as_long_as_the_paper_has_it_for_the_host(self, name, words, gamma):
        found = recipe(name, "awp.warmup=0.5", *words.split())
        assert found.awp.gamma == gamma
        assert f"gamma: {gamma}\n" in found.to_yaml().partition("awp:")[2]
        assert recipe(name).awp is None or name == "cafe/help"

    def test_smoothing_is_a_network_under_noise(self):
        found = recipe("smoothing", "objective.sigma=0.7")
        model = build_model(found, 4, (1, 16, 16))
        assert isinstance(model, Smoothed)
        assert model.sigma == 0.7
        assert isinstance(build_objective(model, found), Smoothing)

    @pytest.mark.parametrize(
        ("name", "word", "message"),
        [
            ("standard", "awp.gamma=0.1", r"awp: got .* expected none with standard, which has no adversarial example"),
            ("smoothing", "awp.gamma=0.1", "awp: got .* expected none with smoothing"),
            ("trades", "awp.gamma=-1", r"awp\.gamma: got -1; expected at least 0"),
            ("trades", "awp.gama=1", r"recipe key: got 'awp\.gama'; .*did you mean 'awp\.gamma'"),
            ("trades", "awp=0.1", "awp: got 0.1; expected keys below it"),
            ("help", "objective.host=standard", r"objective\.host: got 'standard'; expected an objective with an adv"),
            ("help", "objective.host=help", r"objective\.host: got 'help'"),
            ("help", "objective.host=tradse", "got 'tradse'.*did you mean 'trades'"),
            ("help", "objective.host.betta=1", r"got 'objective\.host\.betta'; .*did you mean 'objective\.host\.beta'"),
            ("help", "objective.reach=1", r"objective\.reach: got 1; expected a number above 1"),
            ("mart", "objective.weight=-1", r"objective\.weight: got -1"),
            ("smoothing", "objective.sigma=0", r"objective\.sigma: got 0; expected a number above 0"),
        ],
    )
    def test_bad_settings(self, name, word, message):
        with pytest.raises(InputError, match=message):
            recipe(name, word)

    def test_a_stage_that_is_missing_is_named(self):
        found = recipe("help")
        with pytest.raises(
            InputError, match=r"stages\.standard: got None; expected a finished stage, which help builds"
        ):
            build_objective(build_model(found, 4, (1, 16, 16)), found)
        assert {name for name, entry in OBJECTIVES.items() if entry.stages} >= {"help"}
