"""Names that say something else, stages that saw validation images or another threat model: said once, and recorded."""

from __future__ import annotations

import itertools
import logging

import pytest
import torch
from torch import nn

from deconfound.data import carve_validation
from deconfound.recipes.cautions import recipe_cautions, stage_cautions
from deconfound.recipes.entries import Stage
from deconfound.recipes.resolve import names
from deconfound.recipes.training import train
from deconfound.records import TrainingRecord
from jobs import data_module, split
from resolved import recipe

EACH = {"epochs": 1, "steps": 1, "batch_size": 16}
SMALL = {"selection.size": 8, "selection.steps": 1, "model": "small", **EACH}
LEAK = (
    "stages.{0}: trained on validation images of this run (its seed {1} and selection.size 8, this run's seed {2} and "
    "selection.size 8), so validation figures are too high"
)
CHOSEN = ", and weights are selected on them"


class Positions:
    """Numbered images."""

    def __init__(self, positions):
        self.positions = positions

    def __len__(self):
        return len(self.positions)

    def subset(self, positions):
        return Positions(self.positions[positions])


def stage(found):
    return Stage(recipe=found, model=nn.Identity(), players={}, shape=(1, 16, 16))


def parts(seed, size, count):
    """(trained on, held out)."""
    whole = Positions(torch.arange(count))
    return carve_validation(whole, size, seed) if size else (whole, Positions(torch.arange(0)))


def settled(seed, size):
    last = ["selection.keep=last"] if size == 0 else []
    return recipe("fair/adv", f"seed={seed}", f"selection.size={size}", *last, "stages.base.epochs=1")


@pytest.mark.parametrize("count", [40, 200])
def test_a_stage_is_named_exactly_where_it_was_trained_on_validation_images(count):
    kinds = list(itertools.product((0, 3), (0, 5, 10, 30)))
    named = 0
    for ours, theirs in itertools.product(kinds, kinds):
        seen, held_out = (parts(*one, count)[which].positions for one, which in ((theirs, 0), (ours, 1)))
        said = stage_cautions(settled(*ours), {"base": stage(settled(*theirs))}, count)
        assert bool(said) == bool(torch.isin(held_out, seen).any()), (ours, theirs)
        named += len(said)
    assert named > len(kinds)


def test_the_line_says_whose_seeds_and_sizes_they_are_and_what_follows():
    ours, theirs = recipe("fair/adv", "selection.size=8"), recipe("cafe/base", "seed=3", "selection.size=8")
    line = LEAK.format("base", 3, 0)
    assert stage_cautions(ours, {"base": stage(theirs)}, 88) == (line + CHOSEN,)
    last = ours.model_copy(update={"selection": ours.selection.model_copy(update={"keep": "last"})})
    assert stage_cautions(last, {"base": stage(theirs)}, 88) == (line,)
    both = {"base": stage(theirs), "amr": stage(theirs)}
    assert stage_cautions(last, both, 88) == (line, LEAK.format("amr", 3, 0))


@pytest.mark.parametrize(
    ("base", "words", "said"),
    [
        ("cafe/base", "eps=0.2", "linf 0.2"),
        ("cafe/base", "norm=l2 eps=0.1", "l2 0.1"),
        ("cafe/base", "", None),
        ("standard", "eps=0.2", None),  # which knows no radius
    ],
)
def test_a_base_of_another_threat_model_is_named(base, words, said):
    found = stage_cautions(recipe("fair/adv"), {"base": stage(recipe(base, *words.split()))}, 88)
    assert found == (() if said is None else (f"stages.base: trained under {said}, this run under linf 0.1",))


AWP = "under a weight perturbation"


@pytest.mark.parametrize(
    ("name", "words", "named", "own"),
    [
        ("standard", "objective=trades", "standard", "trades"),
        ("cafe/adv", "objective.host=mart", "cafe on pgd-at", "cafe on mart"),
        ("cafe/help", "objective.host.host=mart", f"cafe on help on trades {AWP}", f"cafe on help on mart {AWP}"),
        ("pgd-at", "awp.gamma=0.01", "pgd-at", f"pgd-at {AWP}"),
    ],
)
def test_a_name_that_says_another_objective(name, words, named, own):
    line = f"recipe: tables and records call this run {name}, which is {named}, but it trains {own}"
    assert recipe_cautions(recipe(name, *words.split())) == (line,)


def test_a_recipe_as_it_is_or_with_other_weights_says_what_it_trains():
    for name in names():
        for family in ("digits", "cifar"):
            assert recipe_cautions(recipe(name, "epochs=3", family=family)) == ()
    assert recipe_cautions(recipe("awp", "awp.gamma=0.02", "objective=pgd-at")) == ()
    assert recipe_cautions(recipe("cafe/trades", "objective.host.beta=3")) == ()


class TestRuns:
    @pytest.fixture(autouse=True)
    def _small_data(self, monkeypatch):
        data_module(monkeypatch, "caution_data", train=split(88), test=split(20, seed=1))

    def trained(self, name, changes, **settings):
        return train(name, data="caution_data:make", changes=SMALL | changes, **settings)

    def test_a_given_stage(self, tmp_path, caplog):
        base = self.trained("cafe/base", {"seed": 3, "eps": 0.2}, out=tmp_path / "base").path
        with caplog.at_level(logging.WARNING, logger="deconfound"):
            made = self.trained("fair/adv", {}, stages={"base": base}, out=tmp_path / "run")
        threats = "stages.base: trained under linf 0.2, this run under linf 0.1"
        assert [entry.message for entry in caplog.records] == [LEAK.format("base", 3, 0) + CHOSEN, threats]
        assert made.record.warnings == tuple(entry.message for entry in caplog.records)
        alike = self.trained("fair/adv", {"seed": 3, "eps": 0.2}, stages={"base": base}).record
        assert alike.warnings == ()

    def test_an_overridden_stage_is_said_once_and_recorded_wherever_it_matters(self, tmp_path, caplog):
        own = {f"stages.{name}.{key}": value for name in ("base", "amr") for key, value in EACH.items()}
        changes = own | {"stages.base.seed": 3, "objective.inversion_steps": 1}
        with caplog.at_level(logging.WARNING, logger="deconfound"):
            made = self.trained("cafe/adv", changes, out=tmp_path / "run")
        line = LEAK.format("base", 3, 0)
        assert [entry.message for entry in caplog.records] == [line + CHOSEN]
        assert made.record.warnings == (line + CHOSEN,)
        records = {name: TrainingRecord.read(made.path / "stages" / name / "record.json") for name in ("base", "amr")}
        assert (records["base"].warnings, records["amr"].warnings) == ((), (line,))
