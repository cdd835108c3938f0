"""From a name to a complete recipe: layers, families, radii, round trips."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
import yaml

from deconfound.core.threat import NORMS
from deconfound.data.families import FAMILIES
from deconfound.errors import InputError
from deconfound.models.ciiv import CiiV
from deconfound.models.footprint import multiply_adds
from deconfound.recipes.hosts import under_noise
from deconfound.recipes.loading import build_model
from deconfound.recipes.registry import OBJECTIVES, build_objective
from deconfound.recipes.resolve import about, family_radius, merged, names, read_spec, resolve
from deconfound.recipes.schema import validated
from deconfound.recipes.stages import planned
from deconfound.training import OptimizerSettings
from toys import SplitNet, stand_ins

SNAPSHOT = Path(__file__).with_name("pgd-at-mnist.yaml")


def recipe(spec="pgd-at", family="digits", data="digits", **changes):
    return resolve(read_spec(spec), data=data, family=family, changes=changes)


@pytest.mark.parametrize(("name", "family"), list(itertools.product(names(), FAMILIES)))
def test_every_recipe_resolves_for_every_family(name, family):
    found = recipe(name, family)
    assert (found.recipe, found.family) == (name, family)
    assert found.norm == ("l2" if name == "smoothing" else "linf")
    authors = "-authors/" in name and family == "cifar"
    assert found.eps == (0.03 if authors else family_radius(family, found.norm))
    model = SplitNet() if found.sampler is None else CiiV(SplitNet(channels=3), channels=1, size=8)
    sampler = found.sampler and found.sampler.model_copy(update={"points": None})  # which lie outside of 8 pixels
    alone = {"model": "small", "model_options": {}, "normalisation": None, "sampler": sampler}
    small = found.model_copy(update=alone)
    assert build_objective(under_noise(model, found), found, stand_ins(small, 4, (1, 8, 8))).players()
    again = validated(yaml.safe_load(found.to_yaml()))
    assert again == found
    assert again.digest() == found.digest()


def test_every_objective_has_a_recipe_and_each_has_a_line():
    used = {recipe(name).objective.name for name in names()}
    assert used == set(OBJECTIVES)
    assert all(about(name).endswith(".") for name in names())


def test_the_resolved_recipe_is_as_published():
    """A change of a default shows here; if it is meant, write the new recipe into the file."""
    found = recipe("pgd-at", "mnist", data="mnist")
    assert yaml.safe_load(found.to_yaml()) == yaml.safe_load(SNAPSHOT.read_text())


@pytest.mark.parametrize(
    ("family", "radii"),
    [
        ("digits", (0.1, 2, 10)),
        ("mnist", (0.3, 2, 10)),
        ("fashion", (0.1, 2, 10)),
        ("shapes", (8 / 255, 0.5, 12)),
        ("cifar", (8 / 255, 0.5, 12)),
        ("tiny", (4 / 255, 0.5, 12)),
        ("generic", (8 / 255, 0.5, 12)),
    ],
)
def test_the_norm_picks_the_familys_radius(family, radii):
    for norm, radius in zip(NORMS, radii, strict=True):
        assert recipe(family=family, norm=norm).eps == radius
        assert recipe(family=family, norm=norm, eps=0.25).eps == 0.25


def test_later_layers_win():
    assert recipe("fgsm-rs", "digits").steps == 1  # the recipe over the default
    assert recipe("fgsm-rs", "cifar").lr == 0.2  # the recipe for this family over the family
    assert recipe("fgsm-rs", "tiny").lr == 0.1
    spec = {"recipe": "fgsm-rs", "lr": 0.3}
    assert recipe(spec, "cifar").lr == 0.3  # the user's file over both
    assert recipe(spec, "cifar", lr=0.4).lr == 0.4  # the command line over all
    assert recipe("trades", "mnist").objective.beta == 1
    assert recipe("trades", "mnist", objective={"beta": 2}).objective.beta == 2


@pytest.mark.parametrize("name", ["pgd-at", "cafe/adv", "ciiv", "causaladv-m"])
@pytest.mark.parametrize("family", ["cifar", "tiny", "generic"])
def test_digits_in_colour_are_not_mirrored_unless_asked(name, family):
    for data in ("path/to/SVHN", "ufldl-stanford/svhn", "svhn_cropped:train=100+patch:rho=0.9"):
        found = recipe(name, family, data)
        usual = recipe(name, family, "uoft-cs/cifar10").augmentation
        assert usual.flip
        assert found.augmentation == usual.model_copy(update={"flip": False})
        assert recipe(name, family, data, augmentation={"flip": True}).augmentation == usual
        assert not any(plan.recipe.augmentation.flip for plan in planned(found, None))


def test_mappings_merge_and_another_name_replaces():
    assert merged({"a": {"x": 1, "y": 1}}, {"a": {"y": 2}}) == {"a": {"x": 1, "y": 2}}
    one = {"optimizer": {"name": "sgd", "momentum": 0.5}}
    assert merged(one, {"optimizer": {"weight_decay": 0}})["optimizer"]["momentum"] == 0.5
    assert merged(one, {"optimizer": {"name": "adamw"}}) == {"optimizer": {"name": "adamw"}}
    assert merged({"objective": {"name": "trades", "beta": 1}}, {"objective": "standard"}) == {
        "objective": {"name": "standard"}
    }
    assert merged({"objective": "trades"}, {"objective": {"beta": 2}}) == {"objective": {"name": "trades", "beta": 2}}


def test_the_layers_are_not_changed():
    first, second = {"a": {"x": 1}}, {"a": {"y": 2}}
    merged(first, second)["a"]["z"] = 3
    assert (first, second) == ({"a": {"x": 1}}, {"a": {"y": 2}})


def test_a_models_options_do_not_outlive_it():
    assert recipe("causaladv-m", "cifar").model_options == {"bias": False}
    assert recipe("causaladv-m", "cifar", model="small").model_options == {}
    assert recipe("causaladv-m", "cifar", model="resnet34", model_options={"width": 4}).model_options == {"width": 4}
    both = recipe("causaladv-m", "cifar", model_options={"width": 4}).model_options
    assert both == {"bias": False, "width": 4}


def test_what_a_players_optimizer_leaves_out_is_the_runs():
    found = recipe("causaladv-m", "digits", players={"style": {"weight_decay": 0}})
    assert (found.optimizer.name, found.optimizer.weight_decay) == ("adamw", 1e-4)
    assert found.players["style"] == found.optimizer.model_copy(update={"weight_decay": 0})
    again = recipe(yaml.safe_load(found.to_yaml()), "digits")
    assert again == found
    nesterov = recipe("causaladv-m", "cifar", optimizer={"nesterov": True}, players={"style": {"momentum": 0.5}})
    assert nesterov.players["style"] == nesterov.optimizer.model_copy(update={"momentum": 0.5})


def test_a_player_with_another_optimizer_takes_nothing_of_the_runs():
    found = recipe("causaladv-m", "cifar", players={"style": {"name": "adamw"}})
    assert found.players["style"] == OptimizerSettings(name="adamw")
    assert found.players["style"].weight_decay != found.optimizer.weight_decay


def test_shapes_take_a_network_of_at_most_five_million_multiply_adds():
    found = build_model(recipe(family="shapes"), 3, (3, 64, 64))
    assert multiply_adds(found, torch.zeros(1, 3, 64, 64)) <= 5_000_000


def test_where_the_data_lies_is_no_part_of_the_identity():
    here, there = recipe(data="./mnist"), recipe(data="/elsewhere/mnist")
    assert here.digest() == there.digest()
    assert here != there
    assert here.digest() != recipe(data="./mnist", seed=1).digest()
    assert here.digest() == recipe(data="./mnist", lr="3e-3").digest()  # how it was written does not matter


def test_the_digest_depends_on_every_setting():
    base = recipe("trades")
    changes = [
        {"epochs": 3},
        {"batch_size": 3},
        {"lr": 1.0},
        {"eps": "1/255"},
        {"steps": 3},
        {"step_size": 0.01},
        {"norm": "l2", "eps": base.eps},
        {"objective": {"beta": 1}},
        {"selection": {"steps": 3}},
        {"augmentation": {"flip": True}},
        {"players": {"model": {"momentum": 0.5}}},
        {"model_options": {"bias": False}},
        {"image_size": 16},
    ]
    digests = {recipe("trades", **change).digest() for change in changes}
    assert len(digests | {base.digest()}) == len(changes) + 1


def test_recipes_are_frozen():
    with pytest.raises(Exception, match="frozen"):
        recipe().lr = 1


def test_files_and_mappings(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("recipe: trades\nepochs: 2\nlr: 1e-3\nobjective: {beta: 3}\neps: 4/255\n")
    found = recipe(path, "mnist")
    assert (found.recipe, found.epochs, found.lr, found.objective.beta, found.eps) == ("trades", 2, 1e-3, 3, 4 / 255)
    assert recipe({"recipe": "trades", "epochs": 2}).epochs == 2


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        (None, "a readable YAML file (No such file or directory)"),
        ("a: [b", "a valid YAML file (while parsing"),
        (b"\xff\xfe\0", "a valid YAML file ('utf-8' codec"),
        ("- 1\n", "a YAML mapping of keys to values"),
        ("", "a YAML mapping of keys to values"),
        ("epochs: 1\n", f"the key recipe with one of {', '.join(names())}"),
        ("recipe: pgdat\n", "(did you mean 'pgd-at'?)"),
        ("recipe: [1]\n", f"one of {', '.join(sorted((*names(), 'module:NAME')))}"),
        ("recipe: pgd-at\n1: 2\n", "a word as key"),
        ("recipe: pgd-at\nobjective.beta: 2\n", "(did you mean 'objective'?)"),
    ],
)
def test_files_that_are_no_recipe(tmp_path, text, rule):
    path = tmp_path / "mine.yaml"
    if text is not None:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(InputError) as caught:
        recipe(path)
    assert rule in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("family", ["digts", 5, ["a"], None])
def test_unknown_families(family):
    with pytest.raises(InputError, match=r"family: got .* expected one of cifar, digits"):
        recipe(family=family)
