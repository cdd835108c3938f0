"""Attacks of libraries that may be absent, under our contract: torchattacks, ART and adv-lib."""

from __future__ import annotations

import json
import sys
import types

import pytest
import torch

from bridged import BOXES, NORMS, check_contract, equal_margins, examples, present, small_net
from deconfound.attacks.bridges import bridge
from deconfound.core.threat import ThreatModel
from deconfound.errors import InputError


@pytest.mark.parametrize("box", BOXES)
def test_torchattacks_pgd_is_ours_without_a_random_start(box):
    present("torchattacks:PGD")
    model, images, labels, weight = equal_margins("linf", 0.05, box)
    threat, width = ThreatModel("linf", 0.05, box), box[1] - box[0]
    attack = bridge("torchattacks:PGD", threat, steps=5, alpha=0.01 / width, random_start=False)
    expected = images + 0.05 * weight.sign().view(1, 1, 4, 4)
    torch.testing.assert_close(attack(model, images, labels), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("attack", "norm", "settings"),
    [
        ("torchattacks:PGD", "linf", {}),
        ("torchattacks:FFGSM", "linf", {}),
        ("torchattacks:APGD", "l2", {}),
        ("torchattacks:APGDT", "linf", {}),
        ("torchattacks:FAB", "linf", {"steps": 4}),
        ("torchattacks:CW", "l2", {"c": 10.0, "steps": 20}),
        ("torchattacks:Square", "linf", {"n_queries": 100}),
        ("torchattacks:AutoAttack", "linf", {}),
        ("art:ProjectedGradientDescent", "linf", {"max_iter": 10}),
        ("art:ProjectedGradientDescent", "l2", {"max_iter": 10}),
        ("art:FastGradientMethod", "l1", {}),
        ("art:AutoProjectedGradientDescent", "linf", {"max_iter": 10, "nb_random_init": 1}),
        ("art:DeepFool", "l2", {"max_iter": 10}),
        ("art:SquareAttack", "linf", {"max_iter": 50}),
    ],
)
def test_other_libraries_keep_the_contract(attack, norm, settings):
    present(attack)
    model = small_net(5)
    images, labels = examples(model)
    made = bridge(attack, ThreatModel(norm, NORMS[norm]), **settings)
    assert check_contract(made, model, images, labels) > 0
    assert torch.equal(made(model, images, labels), made(model, images, labels))
    assert json.loads(json.dumps(made.settings())) == made.settings()


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("attack", ["torchattacks:PGD", "art:ProjectedGradientDescent", "art:DeepFool"])
def test_other_libraries_work_with_few_classes(attack, classes):
    present(attack)
    model = small_net(classes)
    images, labels = examples(model)
    threat = ThreatModel("l2", 0.6) if attack == "art:DeepFool" else ThreatModel("linf", 0.1)
    assert check_contract(bridge(attack, threat), model, images, labels) > 0


def test_fixed_step_sizes_of_other_libraries_follow_the_radius():
    present("torchattacks:PGD")
    small = bridge("torchattacks:PGD", ThreatModel("linf", 0.01), steps=10)
    assert small.settings()["settings"]["alpha"] == pytest.approx(0.0025)
    assert small.at(ThreatModel("linf", 0.3)).settings()["settings"]["alpha"] == pytest.approx(0.075)
    chosen = bridge("torchattacks:PGD", ThreatModel("linf", 0.3), alpha=0.01)
    assert chosen.settings()["settings"]["alpha"] == 0.01
    for field in ("eps", "model", "seed"):
        with pytest.raises(InputError, match=rf"torchattacks:PGD\.{field}"):
            bridge("torchattacks:PGD", ThreatModel("linf", 0.3), **{field: 1})
    refused = bridge("torchattacks:Pixle", ThreatModel("linf", 0.3), restarts=-1)
    with pytest.raises(InputError, match="it says"):
        refused(small_net(), *examples(small_net()))


def test_art_shows_no_progress_bars(capfd):
    present("art:AutoAttack")
    model = small_net(5)
    images, labels = examples(model, 8)
    attack = bridge("art:AutoAttack", ThreatModel("linf", 0.5))  # all fall to its first attack
    assert attack(model, images, labels).shape == images.shape
    assert capfd.readouterr() == ("", "")


@pytest.fixture
def adv_lib(monkeypatch):
    """adv-lib needs torchvision and visdom only for a perceptual distance and for plots; neither is used here."""
    pytest.importorskip("adv_lib")
    torchvision, visdom = types.ModuleType("torchvision"), types.ModuleType("visdom")
    torchvision.models, visdom.Visdom = types.ModuleType("torchvision.models"), object
    for name, module in (("torchvision", torchvision), ("torchvision.models", torchvision.models), ("visdom", visdom)):
        monkeypatch.setitem(sys.modules, name, module)
    yield
    for name in [name for name in sys.modules if name.startswith("adv_lib")]:
        del sys.modules[name]


@pytest.mark.parametrize(
    ("attack", "norm"),
    [
        ("apgd", "linf"),
        ("apgd", "l1"),
        ("pgd_linf", "linf"),
        ("fab", "l2"),
        ("fmn", "l1"),
        ("ddn", "l2"),
        ("fga", "l1"),
    ],
)
def test_adv_lib_keeps_the_contract(adv_lib, attack, norm):
    model = small_net(5)
    images, labels = examples(model)
    few = {"apgd": {"n_iter": 10}, "fab": {"n_iter": 10}, "ddn": {"steps": 30}}
    made = bridge(f"advlib:{attack}", ThreatModel(norm, NORMS[norm]), **few.get(attack, {}))
    assert made.attack == f"adv_lib:{attack}"
    assert check_contract(made, model, images, labels) > 0
    assert torch.equal(made(model, images, labels), made(model, images, labels))
    assert json.loads(json.dumps(made.settings())) == made.settings()


def test_adv_lib_pgd_is_ours_without_a_random_start(adv_lib):
    model, images, labels, weight = equal_margins("linf", 0.05)
    attack = bridge("adv_lib:pgd_linf", ThreatModel("linf", 0.05), steps=6, relative_step_size=0.2, random_init=False)
    expected = images + 0.05 * weight.sign().view(1, 1, 4, 4)
    torch.testing.assert_close(attack(model, images, labels), expected, rtol=0, atol=1e-6)
