"""Attacks of one's own, by ``module:callable``: the same contract, the same judge, as a suite of one attack."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from types import ModuleType

import pytest
import torch
from torch import nn

import deconfound
from deconfound.attacks import Hunt, HuntingAttack, make, suites
from deconfound.core.threat import ThreatModel
from deconfound.errors import InputError

THREAT = ThreatModel("linf", 0.25)


@dataclass(frozen=True)
class Brighter(HuntingAttack):
    """Adds a constant: on the network below the exact worst case."""

    factor: float = 1.0
    name: str = "brighter"

    def settings(self):
        return {"kind": "brighter", "factor": self.factor}

    def body(self, surrogate, hunt: Hunt):
        images = hunt.points.images
        hunt.drop_fallen((images + self.factor * self.threat.eps).clamp(0, 1), ask_all=True)


@pytest.fixture(autouse=True)
def module(monkeypatch):
    found = ModuleType("my_own_attacks")
    found.Brighter, found.number = Brighter, 3
    found.nothing = lambda threat: object()
    found.refuses = lambda threat: (_ for _ in ()).throw(InputError("shade", 7, "a shade of grey"))
    monkeypatch.setitem(sys.modules, "my_own_attacks", found)


class Threshold(nn.Module):
    """Class 1 where the mean is above a half; its margin is the distance in L-infinity."""

    def forward(self, images):
        mean = images.flatten(1).mean(dim=1)
        return torch.stack([0.5 - mean, mean - 0.5], dim=1)


IMAGES = torch.tensor([0.1, 0.2, 0.3, 0.4]).view(4, 1, 1, 1).expand(4, 1, 3, 3).clone()
LABELS = torch.zeros(4, dtype=torch.int64)


def test_it_is_made_with_its_settings_and_attacks_under_the_contract():
    attack = make("my_own_attacks:Brighter", THREAT, factor=1.0)
    found = attack(Threshold(), IMAGES, LABELS)
    assert [bool(moved) for moved in (found != IMAGES).flatten(1).any(1)] == [False, False, True, True]
    assert bool(THREAT.contains(found, IMAGES).all())
    assert attack.at(ThreatModel("linf", 0.35)).threat.eps == 0.35


def test_a_suite_of_it_is_judged_and_recorded():
    record = deconfound.evaluate(
        Threshold(), IMAGES, LABELS, threat=THREAT, suite="my_own_attacks:Brighter", checks=False, curve=False
    )
    assert (record.clean_accuracy, record.robust_accuracy, record.suite) == (1.0, 0.5, "my_own_attacks:Brighter")
    assert [(a.name, a.attacked, a.survivors) for a in record.attacks] == [("brighter", 4, 2)]
    assert record.attacks[0].settings["factor"] == 1.0


def test_one_that_leaves_its_threat_model_is_refused(monkeypatch):
    monkeypatch.setattr(sys.modules["my_own_attacks"], "Brighter", lambda threat: Brighter(threat, factor=2.0))
    with pytest.raises(InputError, match=r"'brighter'.*outside its threat model, the farthest at 0\.5"):
        deconfound.evaluate(Threshold(), IMAGES, LABELS, threat=THREAT, suite="my_own_attacks:Brighter")


@pytest.mark.parametrize(
    ("name", "settings", "said"),
    [
        ("my_own_attacks:Brihgter", {}, "did you mean 'my_own_attacks:Brighter'"),
        ("my_own_attacks:Brighter", {"factr": 2}, "unexpected keyword argument 'factr'"),
        ("my_own_attacks:number", {}, "'int' object is not callable"),
        ("my_own_attacks:nothing", {}, "object lacks name, threat, settings, at, __call__"),
        ("my_own_attacks:refuses", {}, "shade: got 7; expected a shade of grey"),
        ("torchatacks:PGD", {}, "LIBRARY:ATTACK, LIBRARY of torchattacks"),
    ],
)
def test_what_is_no_attack_is_said_in_a_line(name, settings, said):
    with pytest.raises(InputError) as caught:
        make(name, THREAT, **settings)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_suite_may_be_an_attack_of_another_library():
    pytest.importorskip("foolbox")
    assert [attack.name for attack in suites.suite("foolbox:LinfPGD", THREAT).attacks] == ["foolbox:LinfPGD"]
