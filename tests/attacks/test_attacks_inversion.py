"""Causal inversion: recorded iterates, its ball, its aim, its warning."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch
from torch import nn

from deconfound.attacks import causal_inversion
from deconfound.core.streams import Streams
from deconfound.errors import InputError
from deconfound.functional.losses import kl_divergence
from toys import tiny_net


class Recorded(nn.Module):
    """Conv 3x3, tanh, average pool to 2x2, linear."""

    def __init__(self, recorded):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 8, 3, padding=1), nn.Linear(32, 5)
        names = ("conv.weight", "conv.bias", "fc.weight", "fc.bias")
        self.load_state_dict({name: recorded[name.replace(".", "_")] for name in names})

    def forward(self, images):
        return self.fc(nn.functional.adaptive_avg_pool2d(self.conv(images).tanh(), 2).flatten(1))


def test_recorded_iterates(shared):
    with np.load(shared / "golden" / "cafe_inversion.npz") as file:
        recorded = {key: torch.from_numpy(np.asarray(file[key])) for key in file.files}
    attack = causal_inversion(float(recorded["radius"]), int(recorded["steps"]), start="none")
    assert attack.step == pytest.approx(float(recorded["step_size"]), rel=1e-6)
    images, labels = recorded["images"], torch.zeros(len(recorded["images"]), dtype=torch.int64)
    found = attack(Recorded(recorded), images, labels, context={"target_logits": recorded["target_logits"]})
    torch.testing.assert_close(found, recorded["inverted"], rtol=0, atol=1e-5)


@pytest.fixture
def images():
    return torch.rand(12, 1, 8, 8)


def test_it_comes_near_the_target_inside_its_ball(images):
    net, labels = tiny_net(), torch.zeros(12, dtype=torch.int64)
    with torch.no_grad():
        target = net(torch.rand(12, 1, 8, 8))
        found = causal_inversion("16/255")(net, images, labels, Streams(0, range(12)), {"target_logits": target})
        before, after = (kl_divergence(net(one), target) for one in (images, found))
    assert (after < before).all()
    assert float((found - images).abs().max()) <= 16 / 255 + 1e-6
    assert float(found.min()) >= 0
    assert float(found.max()) <= 1


def test_it_starts_at_random_and_aims_by_the_kl_from_the_image_to_the_target(images):
    net, labels, streams = tiny_net(), torch.zeros(12, dtype=torch.int64), Streams(0, range(12))
    target = torch.randn(12, 4)
    attack = causal_inversion(0.1, 1)
    found = attack(net, images, labels, streams, {"target_logits": target})
    start = attack.threat.random_start(images, streams.fold("restart", 0)).requires_grad_()
    p, q = net(start).log_softmax(1), target.log_softmax(1)
    (gradient,) = torch.autograd.grad((p.exp() * (p - q)).sum(), start)
    expected = attack.threat.project(start - 0.23 * gradient.sign(), images).detach()
    torch.testing.assert_close(found, expected)
    reverse = (q.exp() * (q - net(start).log_softmax(1))).sum()
    (other,) = torch.autograd.grad(reverse, start)
    assert (other.sign() != gradient.sign()).any()  # the two directions of the KL could be told apart
    fresh = attack(net, images, labels, streams.fold("other"), {"target_logits": target})
    assert not torch.equal(fresh, found)


@pytest.mark.parametrize("scale", [1e4, -1e4])
def test_saturated_logits_leave_finite_images(images, scale):
    net, labels = tiny_net(), torch.zeros(12, dtype=torch.int64)
    target = scale * torch.eye(4)[torch.arange(12) % 4]
    with torch.no_grad():
        net[-1].weight.mul_(1e4)
    found = causal_inversion(0.1, 3)(net, images, labels, context={"target_logits": target})
    assert found.isfinite().all()


def test_a_radius_above_eps_is_allowed_and_warned_of_once(caplog):
    with caplog.at_level(logging.WARNING, "deconfound"):
        assert causal_inversion("4/255", eps="8/255").threat.eps == pytest.approx(4 / 255)
        assert not caplog.records
        assert causal_inversion("9/255", eps="8/255").threat.eps == pytest.approx(9 / 255)
    (record,) = caplog.records
    assert record.getMessage() == "causal inversion looks further than the attack: gamma 9/255 is above eps 8/255"


def test_bad_settings(images):
    with pytest.raises(InputError, match="gamma: got 'wide'"):
        causal_inversion("wide")
    with pytest.raises(InputError, match="steps: got 0"):
        causal_inversion(0.1, 0)
    with pytest.raises(InputError, match="'target_logits'"):
        causal_inversion(0.1)(tiny_net(), images, torch.zeros(12, dtype=torch.int64))


def test_without_a_radius_the_images_stay(images):
    target = torch.randn(12, 4)
    labels = torch.zeros(12, dtype=torch.int64)
    assert torch.equal(causal_inversion(0)(tiny_net(), images, labels, context={"target_logits": target}), images)
