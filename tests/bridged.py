"""What tests of other libraries' attacks share: models whose answer is known, the contract, which library is here."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from deconfound.attacks.bridges import members
from deconfound.errors import InputError
from toys import dropping_net

NORMS = {"linf": 0.1, "l2": 0.6, "l1": 3.0}
BOXES = [(0.0, 1.0), (-1.0, 3.0)]


def equal_margins(norm, eps, box=(0.0, 1.0), count=12, side=4):
    """A linear classifier of two classes and images, all right by 0.99 of what the ball reaches, so that of a climb
    in equal steps along the gradient only the last iterate breaks them. No ball touches the box."""
    low, high = box
    torch.manual_seed(0)
    layer = nn.Linear(side * side, 2).double()
    weight = (layer.weight[1] - layer.weight[0]).detach()
    generator = torch.Generator().manual_seed(1)
    flat = 0.5 + 0.04 * torch.randn(count, side * side, generator=generator, dtype=torch.float64)
    flat = low + (high - low) * (flat - ((flat - 0.5) @ weight)[:, None] * weight / weight.square().sum())
    gain = {"linf": weight.abs().sum(), "l2": weight.norm(), "l1": weight.square().sum() / weight.abs().sum()}[norm]
    with torch.no_grad():
        layer.bias[0], layer.bias[1] = 0.99 * eps * gain + flat[0] @ weight, 0
    images = flat.view(count, 1, side, side)
    assert images.min() > low + eps
    assert images.max() < high - eps
    return nn.Sequential(nn.Flatten(), layer), images, torch.zeros(count, dtype=torch.int64), weight


def small_net(classes=4, channels=2):
    return dropping_net(classes, channels, side=8).eval()


def examples(model, count=20, channels=2, wrong=5, dtype=torch.float32):
    images = torch.rand(count, channels, 8, 8, generator=torch.Generator().manual_seed(1)).to(dtype)
    with torch.no_grad():
        logits = model(images)
    labels = logits.argmax(1)
    labels[:wrong] = (labels[:wrong] + 1) % logits.shape[1]
    return images, labels


def check_contract(attack, model, images, labels, wrong=5):
    """Clean where it was wrong or nothing was found; elsewhere adversarial, inside the threat model."""
    found = attack(model, images, labels)
    assert found.shape == images.shape
    assert found.dtype == images.dtype
    assert attack.threat.contains(found, images).all()
    with torch.no_grad():
        fallen = model(found).argmax(1) != labels
    changed = (found != images).flatten(1).any(1)
    assert not changed[:wrong].any()
    assert torch.equal(fallen[wrong:], changed[wrong:])
    return int(changed.sum())


def present(attack):
    """Skips where the library of an attack does not import."""
    try:
        members(attack.split(":")[0])
    except InputError as error:
        pytest.skip(str(error))
