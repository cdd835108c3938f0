"""Every attack of the registry in every norm it works in, with few steps, and a small network for it."""

from __future__ import annotations

import inspect

import pytest
import torch

from deconfound.attacks import ATTACKS, make
from deconfound.core.threat import ThreatModel
from deconfound.errors import InputError
from toys import dropping_net

NORMS = {"linf": 0.1, "l2": 0.6, "l1": 3.0}
# What the contract says does not need many steps.
FEWER = {
    "pgd": {"steps": 4},
    "mi-fgsm": {"steps": 4},
    "cw-linf": {"steps": 4},
    "apgd": {"steps": 6},
    "apgd-t": {"steps": 4, "targets": 2},
    "fab": {"steps": 5},
    "fab-t": {"steps": 5, "targets": 2},
    "square": {"queries": 60},
    "spsa": {"steps": 3, "pairs": 4},
    "noise": {"tries": 4},
    "cw-l2": {"steps": 6},
    "deepfool": {"steps": 6},
    "ddn": {"steps": 6},
    "fmn": {"steps": 6},
    "patch": {"steps": 4, "share": 0.2},
}


def can(name, setting):
    return setting in inspect.signature(ATTACKS[name]).parameters


def norms_of(name):
    return tuple(norm for norm in NORMS if not refuses(name, norm))


def threat_of(name):
    """A threat model that the attack works in."""
    norm = norms_of(name)[0]
    return ThreatModel(norm, NORMS[norm])


def refuses(name, norm):
    try:
        build(name, ThreatModel(norm, NORMS[norm]))
    except InputError as error:
        return error.field == "norm"
    return False


def build(name, threat, **settings):
    return make(name, threat, **FEWER.get(name, {}) | settings)


def keeps(name):
    return ({"keep": "first_adversarial"}, {"keep": "last"}) if can(name, "keep") else ({},)


everything = pytest.mark.parametrize(
    ("name", "norm", "keep"),
    [
        pytest.param(name, norm, keep, id="-".join([name, norm, *keep.values()]))
        for name in ATTACKS
        for norm in norms_of(name)
        for keep in keeps(name)
    ],
)
every_attack = pytest.mark.parametrize("name", list(ATTACKS))


def small_net(classes=4, channels=2, seed=0):
    return dropping_net(classes, channels, side=5, seed=seed).double()


def examples(count=16, channels=2, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, channels, 5, 5, generator=generator, dtype=torch.float64)


def labelled(model, images, wrong=6):
    """The model's own labels, with some made wrong."""
    with torch.no_grad():
        logits = model.eval()(images)
    labels = logits.argmax(1)
    labels[:wrong] = (labels[:wrong] + 1) % logits.shape[1]
    return labels
