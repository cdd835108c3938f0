"""What every bridge to another library's attacks owes its caller, and its names and settings."""

from __future__ import annotations

import dataclasses
import json
import random
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

from bridged import NORMS, examples, present, small_net
from deconfound.attacks import bridges
from deconfound.attacks.bridge_parts import Library, Shielded, step_size
from deconfound.attacks.bridges import Bridge, bridge, members
from deconfound.attacks.points import Points
from deconfound.core.streams import Streams
from deconfound.core.threat import ThreatModel
from deconfound.errors import InputError


def planted(monkeypatch, run, make=lambda model, eps=0.1, strength=1: None):
    """A library ``planted`` with one attack ``Attack`` that does what ``run`` says."""
    library = Library(
        name="planted",
        module="json",
        distribution="planted",
        advice="none",
        own=frozenset({"model", "eps"}),
        members=lambda module: {"Attack": make},
        follow=lambda maker, norm, eps, chosen: {"eps": eps},
        run=run,
    )
    monkeypatch.setattr(bridges, "LIBRARIES", {"planted": library})


@pytest.mark.parametrize("attack", ["foolbox:LinfPGD", "torchattacks:PGD", "art:ProjectedGradientDescent"])
@pytest.mark.parametrize("at", [None, 1, 3])
def test_model_and_random_states_are_left_as_found_also_after_an_error(attack, at):
    present(attack)

    class Watched(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.calls = small_net(), 0

        def forward(self, images):
            self.calls += 1
            if self.calls == at:
                raise RuntimeError("planted")
            assert not self.inner.training
            return self.inner(images)

    model = Watched().train()
    images, labels = examples(model.inner.eval())
    model.inner.train()
    model.inner[0].eval()
    model.inner[0].bias.requires_grad_(False)
    model.inner[5].weight.grad = torch.ones_like(model.inner[5].weight)
    buffers = {key: value.clone() for key, value in model.state_dict().items()}
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()  # noqa: NPY002
    attack = bridge(attack, ThreatModel("linf", 0.1))
    if at is None:
        attack(model, images, labels)
    else:
        with pytest.raises(RuntimeError, match="planted") as caught:
            attack(model, images, labels)
        assert at == 1 or caught.value.__notes__ == [f"raised inside {attack.name}"]
    assert [module.training for module in model.inner.modules()] == [True, False] + [True] * 5
    assert [p.requires_grad for p in model.parameters()] == [True, False, True, True, True, True]
    assert [p.grad is not None for p in model.parameters()] == [False] * 4 + [True, False]
    assert (model.inner[5].weight.grad == 1).all()
    assert all(torch.equal(value, buffers[key]) for key, value in model.state_dict().items())
    assert not model._forward_hooks
    assert torch.is_grad_enabled()
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (np.random.get_state()[1] == before[1]).all()  # noqa: NPY002
    assert random.getstate() == before[2]


def test_the_generators_of_a_library_are_seeded_from_the_streams(monkeypatch):
    drawn = []

    def run(task):
        drawn.append((torch.rand(()).item(), float(np.random.rand()), random.random(), task.seed))  # noqa: NPY002
        return (task.pixels,)

    planted(monkeypatch, run)
    attack, images = bridge("planted:Attack", ThreatModel("linf", 0.1)), torch.rand(4, 1, 4, 4)
    labels = torch.zeros(4, dtype=torch.int64)

    def model(images):
        return images.flatten(1)[:, :2] * torch.tensor([1.0, 0.0])

    order = torch.tensor([2, 0, 3, 1])
    attack(model, images, labels, Streams(0, range(4)))
    attack(model, images[order], labels, Streams(0, order))
    attack(model, images, labels, Streams(1, range(4)))
    attack(model, images, labels, Streams(0, range(4)))
    assert drawn[0] == drawn[1] == drawn[3]
    assert all(a != b for a, b in zip(drawn[0], drawn[2], strict=True))


def test_what_a_library_returns_is_made_finite_and_projected(monkeypatch):
    def run(task):
        found = task.pixels + 10 * torch.ones_like(task.pixels)
        found[:, :, 0] = torch.nan
        found[:, :, 1] = -torch.inf
        return (found,)

    planted(monkeypatch, run)
    images = torch.full((2, 1, 4, 4), 0.5)

    def model(images):
        total = images.flatten(1).sum(1)
        return torch.stack([torch.full_like(total, 8.1), total], 1)

    found = bridge("planted:Attack", ThreatModel("linf", 0.1))(model, images, torch.zeros(2, dtype=torch.int64))
    expected = images.clone()
    expected[:, :, 2:] = 0.6
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("returned", [lambda task: task.pixels[:1], lambda task: None, lambda task: (1, 2)])
def test_an_attack_that_returns_no_images_is_an_input_error(monkeypatch, returned):
    planted(monkeypatch, lambda task: (returned(task),))
    attack = bridge("planted:Attack", ThreatModel("linf", 0.1))
    with pytest.raises(InputError, match="planted:Attack"):
        attack(
            lambda images: images.flatten(1)[:, :2] - torch.tensor([-1.0, 0]),
            torch.rand(2, 1, 2, 2),
            torch.zeros(2).long(),
        )


def test_a_library_sees_a_module_that_hides_the_surrogate():
    inner = small_net().train()
    images, labels = examples(inner.eval())
    points = Points.of(images, labels, None, None)
    shielded = Shielded(inner, points, ThreatModel("linf", 0.1, (0.0, 2.0)), 0)
    shielded.train()
    shielded.zero_grad()
    assert not inner.training
    assert len(list(shielded.parameters())) == 1
    with torch.no_grad():
        torch.testing.assert_close(shielded(images), inner(2 * images))
        assert shielded(images.double()).dtype == torch.float64


# names and settings


def test_unknown_names_and_settings_are_input_errors_with_near_names():
    threat = ThreatModel("linf", 0.1)
    for wrong, near in (
        ("foolbox:LinfPDG", "did you mean 'foolbox:LinfPGD'"),
        ("folbox:LinfPGD", "did you mean 'foolbox:LinfPGD'"),
        ("foolbox", "LIBRARY:ATTACK"),
        ("foolbox:LinfPGD:2", "LIBRARY:ATTACK"),
    ):
        with pytest.raises(InputError, match=near) as caught:
            bridge(wrong, threat)
        assert caught.value.field == "attack"
        assert caught.value.value == wrong
    with pytest.raises(InputError, match=r"foolbox:LinfPGD\.step: got 3; expected a setting of this attack: .*steps"):
        bridge("foolbox:LinfPGD", threat, step=3)
    with pytest.raises(InputError, match=r"foolbox:VirtualAdversarialAttack\.steps"):
        bridge("foolbox:VirtualAdversarialAttack", ThreatModel("l2", 1))
    with pytest.raises(InputError, match="library"):
        members("nothing")
    with pytest.raises(InputError, match="threat"):
        bridge("foolbox:LinfPGD", "linf")


@pytest.mark.parametrize("attack", ["LinfPGD", "L2PGD", "L1PGD", "L2AdditiveUniformNoiseAttack"])
def test_an_attack_in_another_norm_is_refused(attack):
    own = "linf" if attack.startswith("Linf") else attack[:2].lower()
    for norm, eps in NORMS.items():
        if norm == own:
            assert Bridge(ThreatModel(norm, eps), attack=f"foolbox:{attack}").threat.norm == norm
        else:
            with pytest.raises(InputError, match=f"moves in {own}$"):
                bridge(f"foolbox:{attack}", ThreatModel(norm, eps))


@pytest.mark.parametrize(
    ("attack", "module", "install"),
    [
        ("torchattacks:PGD", "torchattacks", "pip install torchattacks"),
        ("foolbox:LinfPGD", "foolbox.attacks", "pip install foolbox"),
        ("art:ProjectedGradientDescent", "art.attacks.evasion", "pip install adversarial-robustness-toolbox"),
        ("adv_lib:apgd", "adv_lib.attacks", "install github.com/jeromerony/adversarial-library"),
        ("advlib:apgd", "adv_lib.attacks", "install github.com/jeromerony/adversarial-library"),
    ],
)
def test_an_absent_library_is_one_clear_input_error(monkeypatch, attack, module, install):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(InputError, match=install) as caught:
        bridge(attack, ThreatModel("linf", 0.1))
    assert (caught.value.field, caught.value.value) == ("attack", attack)
    assert "\n" not in str(caught.value)


def test_nothing_is_imported_before_it_is_used():
    code = (
        "import sys, deconfound.attacks.bridges\n"
        "print([name for name in ('foolbox', 'torchattacks', 'art', 'adv_lib', 'torchvision') if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_settings_are_json_and_hold_the_librarys_defaults():
    attack = bridge("foolbox:LinfPGD", ThreatModel("linf", 0.1), steps=7)
    found = json.loads(json.dumps(attack.settings()))
    assert found == attack.settings()
    assert (found["kind"], found["attack"], found["norm"], found["eps"]) == ("bridge", "foolbox:LinfPGD", "linf", 0.1)
    assert found["settings"] == {"rel_stepsize": 0.01 / 0.3, "abs_stepsize": None, "steps": 7, "random_start": True}
    assert found["version"]
    assert attack.name == "foolbox:LinfPGD"
    assert bridge("foolbox:LinfPGD", ThreatModel("linf", 0.1), name="theirs").name == "theirs"
    moved = attack.at(ThreatModel("linf", 0.2))
    assert moved == dataclasses.replace(attack, threat=ThreatModel("linf", 0.2))
    assert moved.at(attack.threat) == attack
    assert hash(moved.at(attack.threat)) == hash(attack)


def test_step_sizes_follow_the_radius_and_never_exceed_it():
    assert step_size(0.1, 10) == pytest.approx(0.025)
    assert step_size(0.1, 1) == 0.1
    assert step_size(0.1, None) == pytest.approx(0.125)
