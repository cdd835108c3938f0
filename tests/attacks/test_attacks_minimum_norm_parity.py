"""Minimum-norm attacks beside those of other libraries, and their settings."""

from __future__ import annotations

import json
from importlib import import_module

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from deconfound.attacks.cw_l2 import CWL2
from deconfound.attacks.ddn import DDN
from deconfound.attacks.deepfool import DeepFool
from deconfound.attacks.fmn import FMN
from deconfound.core.threat import ThreatModel
from deconfound.errors import InputError

MEMBERS = {
    "cw-l2": (CWL2, "l2", {"steps": 40, "searches": 6}),
    "deepfool-l2": (DeepFool, "l2", {}),
    "deepfool-linf": (DeepFool, "linf", {}),
    "ddn": (DDN, "l2", {}),
    "fmn-linf": (FMN, "linf", {}),
    "fmn-l2": (FMN, "l2", {}),
    "fmn-l1": (FMN, "l1", {}),
}
every_member = pytest.mark.parametrize("member", list(MEMBERS))


def build(member):
    kind, norm, own = MEMBERS[member]
    return kind(ThreatModel(norm, 0.1), **own)


def wrong(model, images, labels):
    with torch.no_grad():
        return model(images).argmax(1) != labels


@every_member
def test_settings_are_json_and_the_threat_model_can_be_changed(member):
    attack = build(member)
    settings = json.loads(json.dumps(attack.settings()))
    assert settings == attack.settings()
    assert settings["norm"] == MEMBERS[member][1]
    assert attack.at(attack.threat) == attack
    moved = attack.at(attack.threat.with_eps(0.2))
    assert moved.settings() == settings | {"eps": 0.2}
    assert moved.name == attack.name


@pytest.mark.parametrize(("kind", "norm"), [(CWL2, "linf"), (CWL2, "l1"), (DDN, "linf"), (DDN, "l1"), (DeepFool, "l1")])
def test_a_norm_that_the_attack_does_not_have_is_refused_with_what_to_use(kind, norm):
    with pytest.raises(InputError, match=rf"{norm}.*use FMN or FAB"):
        kind(ThreatModel(norm, 0.1))
    with pytest.raises(InputError):
        kind(ThreatModel("l2", 0.1)).at(ThreatModel(norm, 0.1))


@pytest.mark.parametrize("kind", [CWL2, DDN, DeepFool, FMN])
def test_settings_out_of_range_are_input_errors(kind):
    threat = ThreatModel("l2", 0.1)
    for field, value in (("steps", 0), ("targets", 0), ("draws", 0), ("halvings", -1)):
        with pytest.raises(InputError, match=field):
            kind(threat, **{field: value})
    with pytest.raises(InputError, match="threat"):
        kind("l2")
    if kind is not DeepFool:
        for field, value in (("start", "elsewhere"), ("step_size", 0)):
            with pytest.raises(InputError, match=field):
                kind(threat, **{field: value})


# --- other libraries --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained():
    """A small network trained on 8 x 8 digits for a few seconds, and images that it gets right."""
    from sklearn.datasets import load_digits

    data = load_digits()
    images = torch.from_numpy(data.images).float().div(16)[:, None]
    labels = torch.from_numpy(data.target).long()
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 12, 3, padding=1), nn.ReLU(), nn.Conv2d(12, 24, 3, stride=2), nn.ReLU(), nn.Flatten()]
    model = nn.Sequential(*layers, nn.Linear(24 * 9, 10))
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    for step in range(150):
        rows = torch.arange(step * 64, step * 64 + 64) % 1500
        optimizer.zero_grad()
        F.cross_entropy(model(images[rows]), labels[rows]).backward()
        optimizer.step()
    model.eval().requires_grad_(False)
    images, labels = images[1500:1560], labels[1500:1560]
    right = ~wrong(model, images, labels)
    assert int(right.sum()) > 45
    return model, images[right], labels[right]


def median(model, images, labels, found, norm):
    distance = ThreatModel(norm, 1).distance(found.detach(), images)
    return float(torch.where(wrong(model, found, labels), distance, torch.inf).median())


FOOLBOX = {
    "cw-l2": ("L2CarliniWagnerAttack", {"steps": 40, "binary_search_steps": 6}),
    "deepfool-l2": ("L2DeepFoolAttack", {}),
    "deepfool-linf": ("LinfDeepFoolAttack", {}),
    "ddn": ("DDNAttack", {}),
    "fmn-linf": ("LInfFMNAttack", {}),
    "fmn-l2": ("L2FMNAttack", {}),
    "fmn-l1": ("L1FMNAttack", {}),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("member", list(FOOLBOX))
def test_distances_are_at_most_three_hundredths_above_foolboxs(member, trained):
    import foolbox

    model, images, labels = trained
    name, settings = FOOLBOX[member]
    theirs = getattr(foolbox.attacks, name)(**settings)
    reference, _, _ = theirs(foolbox.PyTorchModel(model, bounds=(0, 1)), images, labels, epsilons=None)
    found = build(member).nearest(model, images, labels)
    norm = MEMBERS[member][1]
    ours, other = (median(model, images, labels, z, norm) for z in (found, reference))
    assert ours <= 1.03 * other, (ours, other)
    assert wrong(model, found, labels).all()


def adv_lib_attack(member):
    try:
        attacks = import_module("adv_lib.attacks")
    except (ImportError, RuntimeError) as error:  # a torchvision built for another torch raises the second
        pytest.skip(f"needs adv-lib: {error}")
    return {
        "cw-l2": lambda *given: attacks.carlini_wagner_l2(*given, max_iterations=40, binary_search_steps=6),
        "deepfool-l2": lambda *given: attacks.df(*given, norm=2),
        "deepfool-linf": lambda *given: attacks.df(*given, norm=float("inf")),
        "ddn": lambda *given: attacks.ddn(*given, levels=None),
        "fmn-linf": lambda *given: attacks.fmn(*given, norm=float("inf"), steps=100),
        "fmn-l2": lambda *given: attacks.fmn(*given, norm=2, steps=100),
        "fmn-l1": lambda *given: attacks.fmn(*given, norm=1, steps=100),
    }[member]


@pytest.mark.filterwarnings("ignore")
@every_member
def test_distances_are_at_most_three_hundredths_above_adv_libs(member, trained):
    model, images, labels = trained
    reference = adv_lib_attack(member)(model, images, labels)
    found = build(member).nearest(model, images, labels)
    norm = MEMBERS[member][1]
    ours, other = (median(model, images, labels, z, norm) for z in (found, reference))
    assert ours <= 1.03 * other, (ours, other)
