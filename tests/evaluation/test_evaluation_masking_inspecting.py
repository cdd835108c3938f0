"""Masking checks that look at the network itself: its answers, its gradients, its state and the pixels it expects."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from deconfound.attacks import FGSM, PGD
from deconfound.core.threat import ThreatModel
from deconfound.evaluation import Probes, gradients, inspecting, masking, steadiness
from deconfound.evaluation.referee import Sample
from masking_scene import COUNT, HONEST, data, scene


def test_undeclared_randomness(net):
    assert not steadiness.output_changes(scene(lambda x: net(x) + 0.01 * torch.randn(len(x), 3))).passed
    assert steadiness.output_changes(scene(lambda x: net(x) + 1e-6 * torch.randn(len(x), 3))).passed
    assert steadiness.output_changes(scene(nn.Sequential(nn.Dropout(0.5), net).eval())).passed
    assert not steadiness.output_changes(scene(nn.Sequential(nn.Dropout(0.5), net).train())).passed
    assert steadiness.output_changes(scene(lambda x: net(x) * torch.nan)).passed


def test_gradients_that_are_cut(net):
    check = gradients.zero_gradients(scene(lambda x: net(torch.round(x * 15) / 15)))
    assert not check.passed
    assert check.measured == 1
    assert "0 of 100 by saturation" in check.note
    assert not gradients.zero_gradients(scene(lambda x: net(x).detach())).passed


def test_gradients_that_are_saturated(net):
    check = gradients.zero_gradients(scene(lambda x: 1e4 * net(x)))
    assert not check.passed
    assert check.measured > 0.9
    silent = round(check.measured * 100)
    assert f"{silent} of {silent} by saturation" in check.note


@pytest.mark.parametrize(("share", "passed"), [(10, True), (11, False)])
def test_one_in_ten_zero_gradients_is_the_limit(net, share, passed):
    images, _ = data()
    images[:share, 0, 0, 5] = 0.99

    def partly(x):
        flagged = (x[:, 0, 0, 5] > 0.98).view(-1, 1)
        z = net(x)
        return torch.where(flagged, z.detach(), z)

    look = scene(partly, images=images)
    look.sample = Sample(look.sample.batch, look.sample.streams, torch.ones(100, dtype=torch.bool))
    check = gradients.zero_gradients(look)
    assert (check.measured, check.passed) == (share / 100, passed)
    look.sample = Sample(look.sample.batch, look.sample.streams, torch.zeros(100, dtype=torch.bool))
    assert gradients.zero_gradients(look).passed is None


@pytest.mark.parametrize(("left_out", "passed"), [(None, None), ((), True), (("bpda", "eot"), False)])
def test_attacks_that_are_declared_and_left_out(net, left_out, passed):
    check = inspecting.declared_attacks(scene(net, replace(HONEST, left_out=left_out)))
    assert (check.measured, check.passed) == (None if left_out is None else len(left_out), passed)
    if not passed and left_out:
        assert check.note.startswith("the suite leaves out bpda, eot: ")


def test_probabilities(net):
    assert not inspecting.probabilities(scene(lambda x: net(x).softmax(1))).passed
    assert inspecting.probabilities(scene(lambda x: net(x).log_softmax(1))).passed
    assert inspecting.probabilities(scene(lambda x: net(x).relu())).passed


def test_a_network_that_refuses_pixels_outside_the_box_is_not_accused():
    def strict(x):
        if x.min() < 0 or x.max() > 1:
            raise ValueError("pixels must lie in [0, 1]")
        return x.flatten(1)[:, :3]

    check = inspecting.raw_pixels(scene(strict, images=torch.rand(100, 1, 6, 6)))
    assert check.passed is None
    assert check.note == "not run: the model refuses pixels outside [0, 1] (ValueError)"


@pytest.mark.parametrize(("channels", "name"), [(1, "MNIST"), (3, "ImageNet")])
def test_a_network_that_expects_normalised_input(channels, name):
    """It sorts images by brightness: dark, middle, bright."""
    labels = torch.arange(100) % 3
    images = (0.2 + 0.3 * labels).view(-1, 1, 1, 1).expand(-1, channels, 6, 6).clone()
    mean, deviation = (torch.tensor(value).view(1, -1, 1, 1) for value in inspecting.NORMALISATIONS[name])

    def honest(x):
        return -(x.mean((1, 2, 3))[:, None] - torch.tensor([0.2, 0.5, 0.8])).abs()

    check = inspecting.raw_pixels(scene(lambda x: honest(x * deviation + mean), images=images, labels=labels))
    assert check.passed is False
    assert check.measured > 0.05
    assert f"under the {name} normalisation" in check.note
    assert inspecting.raw_pixels(scene(honest, images=images, labels=labels)).passed
    look = scene(lambda x: x.flatten(1)[:, :3], images=torch.rand(100, 2, 6, 6))
    assert inspecting.raw_pixels(look).passed is None


def test_a_rise_within_chance_is_no_fault():
    """Coin flips that differ between raw and normalised pixels: 100 points of accuracy near 1/2 vary by several."""
    images, _ = data()
    labels = torch.randint(0, 2, (100,), generator=torch.Generator().manual_seed(3))

    def coin(x):
        bits = (x.flatten(1).sum(1) * 1e4).long() % 2
        return nn.functional.one_hot(bits, 2).float()

    look = scene(coin, images=images, labels=labels)
    check = inspecting.raw_pixels(look)
    assert check.passed


STEADY = (steadiness.output_changes, steadiness.company, steadiness.gradient_inside, steadiness.state_kept)


def failed_of(checks):
    return [check.name for check in checks if check.passed is False]


def test_a_model_that_answers_gradients_otherwise(net):
    def wary(x):
        return net(x) * (0.5 if torch.is_grad_enabled() else 1.0)

    assert failed_of(check(scene(wary)) for check in STEADY) == ["identical calls agree"]


def test_a_model_that_changes_after_many_queries(net):
    asked = [0]

    def tiring(x):
        asked[0] += len(x)
        return net(x) if asked[0] < 1000 else net(x).flip(1)

    found = masking.examine(scene(tiring, Probes(single_step=FGSM, iterative=PGD)))
    assert "identical calls agree" in failed_of(found)


def test_a_model_whose_batch_norm_keeps_training():
    class Stubborn(nn.Module):
        """Its statistics are those of the batch whatever mode it is put in."""

        def __init__(self):
            super().__init__()
            self.first, self.norm, self.last = nn.Linear(36, 16), nn.BatchNorm1d(16), nn.Linear(16, 3)

        def forward(self, images):
            norm = self.norm
            hidden = nn.functional.batch_norm(
                self.first(images.flatten(1)), norm.running_mean, norm.running_var, norm.weight, norm.bias, True
            )
            return self.last(hidden.relu())

    torch.manual_seed(0)
    model = Stubborn().eval()
    found = [check(scene(model)) for check in STEADY]
    assert failed_of(found) == ["images are judged alone", "state unchanged"]
    assert "norm.running_mean" in found[3].note
    assert found[3].measured == 2
    assert "0 may" in found[3].note
    plain = nn.Sequential(nn.Flatten(), model.first, nn.BatchNorm1d(16), model.last).eval()
    assert failed_of(check(scene(plain)) for check in STEADY) == []


def test_state_that_is_replaced_added_or_nan(net):
    class Counter(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = net
            self.register_buffer("calls", torch.zeros(()))
            self.register_buffer("hole", torch.tensor([torch.nan]))

        def forward(self, images):
            self.calls = self.calls + 1
            return self.net(images)

    check = steadiness.state_kept(scene(Counter()))
    assert (check.passed, check.measured) == (False, 1)
    assert "(calls)" in check.note
    assert steadiness.state_kept(scene(lambda x: net(x))).passed is None


def by_grad(net, x):
    leaf = x.detach().clone().requires_grad_()
    (gradient,) = torch.autograd.grad(net(leaf).logsumexp(1).sum(), leaf)
    return net(x - 0.1 * gradient)


def by_backward(net, x):
    leaf = x.detach().clone().requires_grad_()
    net(leaf).logsumexp(1).sum().backward()
    return net(x - 0.1 * leaf.grad)


def by_transform(net, x):
    return net(x - 0.1 * torch.func.grad(lambda z: net(z).logsumexp(1).sum())(x))


@pytest.mark.parametrize("purify", [by_grad, by_backward, by_transform])
def test_a_forward_that_takes_gradients(net, purify):
    def adaptive(x):
        with torch.enable_grad():
            return purify(net, x)

    check = steadiness.gradient_inside(scene(adaptive))
    assert (check.passed, check.measured, check.threshold) == (False, 1, 0)


def test_a_forward_that_only_turns_gradients_on_takes_none(net):
    def harmless(x):
        with torch.enable_grad():
            return net(x)

    assert steadiness.gradient_inside(scene(harmless)).passed
    assert steadiness.gradient_inside(scene(nn.Sequential(nn.BatchNorm2d(1), net).train())).passed


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_a_gradient_made_up_on_the_way_back(net, norm):
    class MadeUp(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, g):
            signs = torch.randint(0, 2, g.shape[1:], generator=torch.Generator().manual_seed(5)) * 2 - 1
            return g.abs() * signs

    threat = ThreatModel(norm, {"linf": 0.05, "l2": 0.2, "l1": 1.0}[norm])
    check = gradients.loss_follows_gradient(scene(lambda x: net(MadeUp.apply(x)), threat=threat))
    assert not check.passed
    assert "40%" in check.note
    assert gradients.loss_follows_gradient(scene(net, threat=threat)).passed


def test_the_loss_of_a_linear_model_follows_its_gradient_exactly():
    """With two classes the margin is linear; with more it has kinks."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(36, 2))
    for norm, eps in (("linf", 0.01), ("l2", 0.1), ("l1", 0.5)):
        look = scene(model, labels=model(data()[0]).argmax(1), threat=ThreatModel(norm, eps))
        ratios = gradients._followed(look, look.sample)
        assert len(ratios) == COUNT
        assert torch.allclose(ratios.float(), torch.ones(()), atol=1e-2)


def test_no_survivor_or_no_gradient_leaves_nothing_to_follow(net):
    fell = gradients.loss_follows_gradient(scene(net, threat=ThreatModel("linf", 1.0)))
    cut = gradients.loss_follows_gradient(scene(lambda x: net(x).detach()))
    assert fell.passed is cut.passed is None
