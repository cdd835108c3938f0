"""``--set key=value``: what it reads, and what it says to what it cannot read."""

from __future__ import annotations

import pytest

from deconfound.errors import InputError
from deconfound.recipes.registry import OBJECTIVES
from deconfound.recipes.resolve import parse_changes, read_spec, resolve


def changed(*words, recipe="trades", family="digits"):
    return resolve(read_spec(recipe), data="digits", family=family, changes=parse_changes(words))


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("epochs=3", 3),
        ("lr=1e-3", 1e-3),
        ("lr=.5", 0.5),
        ("eps=8/255", 8 / 255),
        ("eps=0.1", 0.1),
        ("step_size=2/255", 2 / 255),
        ("step_size=", None),
        ("step_size=null", None),
        ("norm=L2", "l2"),
        ("norm=2", "l2"),
        ("compile=true", True),
        ("channels_last=yes", True),
        ("model=timm:resnet18", "timm:resnet18"),
        ("objective.beta=2", 2.0),
        ("objective.name=standard", "standard"),
        ("schedule.milestones=[0.1, 0.2]", (0.1, 0.2)),
        ("optimizer.weight_decay=5e-4", 5e-4),
        (" epochs = 3", 3),
    ],
)
def test_words_are_read_as_yaml(word, value):
    found = changed(word)
    for part in word.partition("=")[0].strip().split("."):
        found = getattr(found, part)
    assert found == value
    assert type(found) is type(value)


def test_whole_mappings():
    found = changed("augmentation={crop: 2, flip: true}", "model_options.bias=false")
    assert (found.augmentation.crop, found.augmentation.flip) == (2, True)
    assert found.model_options == {"bias": False}


def test_an_equals_sign_belongs_to_the_value():
    assert parse_changes(["a=b=c", "d="]) == {"a": "b=c", "d": None}


def test_the_last_word_wins():
    assert changed("epochs=3", "epochs=4").epochs == 4


@pytest.mark.parametrize("words", [["objective=trades", "objective.beta=2"], ["objective.beta=2", "objective=trades"]])
def test_an_objective_and_its_settings_in_any_order(words):
    found = changed(*words, recipe="pgd-at")
    assert (found.objective.name, found.objective.beta) == ("trades", 2)


def test_dotted_keys_in_a_mapping():
    assert parse_changes({"objective.beta": 2, "objective": "trades"}) == {"objective": {"beta": 2, "name": "trades"}}


@pytest.mark.parametrize(
    "words",
    [
        ["optimizer=5", "optimizer.name=sgd"],
        ["optimizer.name=sgd", "optimizer=5"],
        ["normalisation.mean=[0.5]", "normalisation=null"],
    ],
)
def test_a_key_and_keys_below_it_do_not_go_together(words):
    with pytest.raises(InputError, match=r"^set: got .*; expected either (optimizer|normalisation) or keys below it"):
        parse_changes(words)


# word -> the field that the line begins with, and what is expected
WRONG = {
    "epochs=0": ("epochs", "at least 1"),
    "epochs=1.5": ("epochs", "a whole number"),
    "epochs=abc": ("epochs", "a whole number"),
    "epochs=": ("epochs", "a whole number"),
    "epochs={a: 1}": ("epochs", "a whole number"),
    "epoch=1": ("recipe key", "one of attack_mode, .* (did you mean 'epochs'?)"),
    "steps=0": ("steps", "at least 1"),
    "batch_size=0": ("batch_size", "at least 1"),
    "lr=0": ("lr", "a number above 0"),
    "lr=nan": ("lr", "a finite number"),
    "lr=inf": ("lr", "a finite number"),
    "lr=1e-3x": ("lr", "a number"),
    "seed=-1": ("seed", "at least 0"),
    "seed=99999999999999999999": ("seed", "a number below"),
    "eps=8/255x": ("eps", "a fraction such as 8/255"),
    "eps=-1": ("eps", "at least 0 or a fraction such as 8/255"),
    "eps=true": ("eps", "a fraction such as 8/255"),
    "eps=8": ("eps", "at most 1 for linf: a radius in pixels of [0, 1], so eight levels are 8/255"),
    "step_size=8/0": ("step_size", "a fraction such as 8/255"),
    "norm=l3": ("norm", "one of linf, l2, l1"),
    "eps_warmup=2": ("eps_warmup", "at most 1"),
    "attack_mode=x": ("attack_mode", "'eval' or 'train'"),
    "precision=16": ("precision", "'32-true', 'bf16-mixed' or '64-true'"),
    "compile=7": ("compile", "true or false"),
    "clip_norm=0": ("clip_norm", "a number above 0"),
    "image_size=0": ("image_size", "at least 1"),
    "model=5": ("model", "a name"),
    "model=": ("model", "a name"),
    "model_options=5": ("model_options", "a mapping of keys to values"),
    "objective=trade": (
        "objective",
        f"one of {', '.join(sorted((*OBJECTIVES, 'module:NAME')))} (did you mean 'trades'?)",
    ),
    "objective=5": ("objective", "a name, or a mapping with a name"),
    "objective=": ("objective", "a name, or a mapping with a name"),
    "objective.name=5": ("objective", "a name, or a mapping with a name"),
    "objective.beta=-1": ("objective.beta", "at least 0"),
    "objective.beta=x": ("objective.beta", "a number"),
    "objective.gamma=1": ("recipe key", "one of objective.attack, objective.beta, objective.name"),
    "optimizer=adam": ("optimizer", "keys below it: optimizer.name, optimizer.momentum"),
    "optimizer.name=adam": ("optimizer.name", "'sgd' or 'adamw'"),
    "optimizer.nam=sgd": ("recipe key", "optimizer.name, .* (did you mean 'optimizer.name'?)"),
    "optimizer.momentum=1": ("optimizer.momentum", "a number below 1"),
    "optimizer={momentum: 0, nesterov: true}": ("optimizer", "a momentum above 0 with nesterov"),
    "optimizer.betas=[0.9]": ("recipe: optimizer.betas.1", "a value; this key is required"),
    "schedule.milestones=[0.7, 0.5]": ("schedule", "milestones in ascending order"),
    "schedule.milestones=0.5": ("schedule.milestones", "a list in square brackets"),
    "schedule.peak=0": ("schedule.peak", "a number above 0"),
    "selection.size=0": ("selection", "validation images; for size 0 set selection.keep=last"),
    "selection.keep=first": ("selection.keep", "'best' or 'last'"),
    "averaging.name=x": ("averaging.name", "'none', 'ema' or 'swa'"),
    "players.critic.momentum=2": ("players.critic.momentum", "a number below 1"),
    "players.critic.lr=1": ("recipe key", "one of players.critic.amsgrad"),
    "players=5": ("players", "a mapping of keys to values"),
    "augmentation.crop=-1": ("augmentation.crop", "at least 0"),
    "augmentation.flip=maybe": ("augmentation.flip", "true or false"),
    "normalisation.mean=0.5": ("normalisation.mean", "a list in square brackets"),
    "normalisation={mean: [0.5]}": ("recipe: normalisation.std", "a value; this key is required"),
    "normalisation={mean: [0.5], std: [0]}": ("normalisation.std.0", "a number above 0"),
    "recipe=standard": ("set", "changes to the recipe trades, not another one"),
    "a..b=1": ("recipe key", "one of attack_mode"),
    ".=1": ("recipe key", "one of attack_mode"),
    "noequals": ("set", "key=value, for example epochs=10"),
    "=5": ("set", "key=value, for example epochs=10"),
    "epochs=[1": ("set", "key=value with a value in YAML"),
}


@pytest.mark.parametrize("word", WRONG)
def test_a_wrong_word_is_one_line_that_names_the_key_and_the_rule(word):
    field, rule = WRONG[word]
    with pytest.raises(InputError) as caught:
        changed(word)
    message = str(caught.value)
    assert message.startswith(f"{field}: got ")
    expected = message.partition("; expected ")[2]
    first, _, rest = rule.partition(" .* ")
    assert first in expected
    assert expected.endswith(rest)
    for jargon in ("\n", "Input should", "valid integer", "dictionary", "instance", "pydantic", "Value error"):
        assert jargon not in message
    if field in ("recipe key", "set"):
        key = word.partition("=")[0].strip(".")
        assert key.split(".")[0] in message


@pytest.mark.parametrize("norm", ["l2", "l1"])
def test_large_radii_are_for_the_other_norms(norm):
    assert changed(f"norm={norm}", "eps=8").eps == 8
