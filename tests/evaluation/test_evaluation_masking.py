"""Every masking check fires on its planted fault and keeps quiet on honest networks."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from deconfound.attacks import FGSM, PGD
from deconfound.core.streams import Streams
from deconfound.core.threat import ThreatModel
from deconfound.core.types import Batch
from deconfound.evaluation import Probes, masking
from deconfound.evaluation.curve import accuracy_curve
from deconfound.evaluation.ledger import Ledger
from deconfound.evaluation.meter import Meter
from deconfound.evaluation.referee import Referee, Sample
from deconfound.functional.predictions import predicted
from deconfound.records import Check, CurvePoint

THREAT = ThreatModel("linf", 0.15)
HONEST = Probes(single_step=FGSM, iterative=PGD)
COUNT = 100


class Idle:
    """An attack that finds nothing."""

    name = "idle"

    def __init__(self, threat):
        self.threat = threat

    def settings(self):
        return {}

    def __call__(self, model, images, labels, streams=None, context=None, *, judge=None):
        return images


def data():
    """Three classes: a brighter band, in noise, in images of 6 by 6 pixels."""
    generator = torch.Generator().manual_seed(2)
    labels = torch.arange(COUNT) % 3
    images = 0.3 + 0.3 * torch.rand(COUNT, 1, 6, 6, generator=generator)
    for row in range(COUNT):
        images[row, :, 2 * labels[row] : 2 * labels[row] + 2] += 0.2
    return images, labels


def trained(kind="mlp"):
    images, labels = data()
    torch.manual_seed(0)
    layers = {"linear": [nn.Linear(36, 3)], "mlp": [nn.Linear(36, 32), nn.ReLU(), nn.Linear(32, 3)]}[kind]
    model = nn.Sequential(nn.Flatten(), *layers)
    optimiser = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(150):
        optimiser.zero_grad()
        nn.functional.cross_entropy(model(images), labels).backward()
        optimiser.step()
    return model.eval()


@pytest.fixture(scope="module")
def net():
    return trained()


def scene(model, probes=HONEST, threat=THREAT, curve=None, count=COUNT, images=None, labels=None):
    drawn = data()
    images, labels = (drawn[0] if images is None else images)[:count], (drawn[1] if labels is None else labels)[:count]
    referee = Referee(model, None, 64)
    correct = predicted(referee.logits(images)) == labels
    streams = Streams(0, range(count))
    return masking.Scene(
        referee, threat, Sample(Batch(images, labels, torch.arange(count)), streams, correct), probes, curve
    )


def measured_curve(look, make, radii=(0.0, 0.05, 0.15, 0.3, 1.0)):
    return accuracy_curve(look.referee, look.sample, THREAT, make, radii, Ledger(Meter(), {}))


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
@pytest.mark.parametrize("kind", ["linear", "mlp"])
def test_honest_networks_pass_every_check(kind, norm):
    model = trained(kind)
    threat = ThreatModel(norm, {"linf": 0.15, "l2": 0.7, "l1": 3.0}[norm])
    look = scene(model, threat=threat)
    look.curve = accuracy_curve(look.referee, look.sample, threat, PGD, (0, 0.1, 0.5, 1.0, 3.0), Ledger(Meter(), {}))
    checks = masking.examine(look)
    assert len(checks) == len({check.name for check in checks}) == 8
    assert [check.name for check in checks if check.passed is not True] == []
    found = masking.verdict(checks)
    assert found.reliable
    assert found.reasons == ()
    assert look.sample.correct.float().mean() > 0.95
    assert not look.after_iterative().all()


def test_undeclared_randomness(net):
    assert not masking.output_changes(scene(lambda x: net(x) + 0.01 * torch.randn(len(x), 3))).passed
    assert masking.output_changes(scene(lambda x: net(x) + 1e-6 * torch.randn(len(x), 3))).passed
    assert masking.output_changes(scene(nn.Sequential(nn.Dropout(0.5), net).eval())).passed
    assert not masking.output_changes(scene(nn.Sequential(nn.Dropout(0.5), net).train())).passed
    assert masking.output_changes(scene(lambda x: net(x) * torch.nan)).passed


def test_declared_randomness_is_no_fault(net):
    class Declared(nn.Module):
        def draw(self, images, streams, draws): ...

        def forward(self, images):
            return net(images) + torch.randn(len(images), 3)

    assert masking.output_changes(scene(Declared())).passed is None


def test_gradients_that_are_cut(net):
    check = masking.zero_gradients(scene(lambda x: net(torch.round(x * 15) / 15)))
    assert not check.passed
    assert check.measured == 1
    assert "0 of 100 by saturation" in check.note
    assert not masking.zero_gradients(scene(lambda x: net(x).detach())).passed


def test_gradients_that_are_saturated(net):
    check = masking.zero_gradients(scene(lambda x: 1e4 * net(x)))
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
    check = masking.zero_gradients(look)
    assert (check.measured, check.passed) == (share / 100, passed)
    look.sample = Sample(look.sample.batch, look.sample.streams, torch.zeros(100, dtype=torch.bool))
    assert masking.zero_gradients(look).passed is None


def test_iterative_weaker_than_single_step(net):
    assert not masking.single_step_against_iterative(scene(net, Probes(single_step=FGSM, iterative=Idle))).passed
    assert masking.single_step_against_iterative(scene(net, Probes(single_step=Idle, iterative=PGD))).passed
    assert masking.single_step_against_iterative(scene(net, Probes(single_step=Idle, iterative=Idle))).measured == 1


def test_gradients_weaker_than_noise(net):
    loud = ThreatModel("linf", 0.5)
    assert not masking.noise_against_gradients(scene(net, Probes(single_step=FGSM, iterative=Idle), loud)).passed
    assert masking.noise_against_gradients(scene(net, threat=loud)).passed


def test_a_network_that_hides_its_gradient_is_unmasked_by_noise_or_full_range(net):
    """The gradient points away from the weakness: the sign of every pixel's influence is reversed on the way back."""

    class Reversed(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, g):
            return -g

    look = scene(lambda x: net(Reversed.apply(x)), threat=ThreatModel("linf", 0.4))
    failed = [check.name for check in masking.examine(look) if check.passed is False]
    assert "gradients not weaker than noise" in failed
    assert "everything breaks at full range" in failed


def test_accuracy_that_rises_with_eps(net):
    class Forgetful(PGD):
        def __call__(self, model, images, *rest, **more):
            return images if self.threat.eps > 0.2 else super().__call__(model, images, *rest, **more)

    look = scene(net)
    look.curve = measured_curve(look, Forgetful)
    check = masking.accuracy_falls(look)
    assert not check.passed
    assert "eps 0.15" in check.note
    look.curve = measured_curve(look, PGD)
    assert masking.accuracy_falls(look).passed
    assert masking.accuracy_falls(scene(net)).passed is None


@pytest.mark.parametrize(("radii", "passed"), [(3, False), (4, True)])
def test_the_pairs_of_a_curve_share_one_error_rate(radii, passed):
    """Eight examples broken by the smaller radius alone have p = 2^-8: below 1 % in two pairs, above in three."""
    every = torch.ones(100, dtype=torch.bool)
    fewer = every.clone()
    fewer[:8] = False
    points = [CurvePoint(eps=e / 10, accuracy=1, interval=(0, 1), n=100, attack="a") for e in range(radii)]
    look = scene(lambda x: x.flatten(1)[:, :3])
    look.curve = masking.Curve(tuple(points), (fewer, *[every] * (radii - 1)))
    check = masking.accuracy_falls(look)
    assert check.measured == pytest.approx((radii - 1) * 2**-8)
    assert check.passed is passed


def test_full_range_breaks_everything_but_one(net):
    check = masking.full_range(scene(net, Probes(single_step=FGSM, iterative=Idle)))
    assert not check.passed
    assert check.measured > 0.95

    class LeavesSome(PGD):
        left = 1

        def __call__(self, model, images, *rest, **more):
            found = super().__call__(model, images, *rest, **more)
            found[: self.left] = images[: self.left]
            return found

    assert masking.full_range(scene(net, Probes(single_step=FGSM, iterative=LeavesSome), count=50)).passed
    LeavesSome.left = 2
    assert not masking.full_range(scene(net, Probes(single_step=FGSM, iterative=LeavesSome), count=50)).passed
    seen = []

    def spy(threat):
        seen.append(threat)
        return PGD(threat)

    masking.full_range(scene(net, Probes(single_step=FGSM, iterative=spy), ThreatModel("l1", 2)))
    assert seen == [ThreatModel("linf", 1.0)]


def test_probabilities(net):
    assert not masking.probabilities(scene(lambda x: net(x).softmax(1))).passed
    assert masking.probabilities(scene(lambda x: net(x).log_softmax(1))).passed
    assert masking.probabilities(scene(lambda x: net(x).relu())).passed


def test_a_network_that_refuses_pixels_outside_the_box_is_not_accused():
    def strict(x):
        if x.min() < 0 or x.max() > 1:
            raise ValueError("pixels must lie in [0, 1]")
        return x.flatten(1)[:, :3]

    check = masking.raw_pixels(scene(strict, images=torch.rand(100, 1, 6, 6)))
    assert check.passed is None
    assert check.note == "not run: the model refuses pixels outside [0, 1] (ValueError)"


@pytest.mark.parametrize(("channels", "name"), [(1, "MNIST"), (3, "ImageNet")])
def test_a_network_that_expects_normalised_input(channels, name):
    """It sorts images by brightness: dark, middle, bright."""
    labels = torch.arange(100) % 3
    images = (0.2 + 0.3 * labels).view(-1, 1, 1, 1).expand(-1, channels, 6, 6).clone()
    mean, deviation = (torch.tensor(value).view(1, -1, 1, 1) for value in masking.NORMALISATIONS[name])

    def honest(x):
        return -(x.mean((1, 2, 3))[:, None] - torch.tensor([0.2, 0.5, 0.8])).abs()

    check = masking.raw_pixels(scene(lambda x: honest(x * deviation + mean), images=images, labels=labels))
    assert check.passed is False
    assert check.measured > 0.05
    assert f"under the {name} normalisation" in check.note
    assert masking.raw_pixels(scene(honest, images=images, labels=labels)).passed
    look = scene(lambda x: x.flatten(1)[:, :3], images=torch.rand(100, 2, 6, 6))
    assert masking.raw_pixels(look).passed is None


def test_a_rise_within_chance_is_no_fault():
    """Coin flips that differ between raw and normalised pixels: 100 points of accuracy near 1/2 vary by several."""
    images, _ = data()
    labels = torch.randint(0, 2, (100,), generator=torch.Generator().manual_seed(3))

    def coin(x):
        bits = (x.flatten(1).sum(1) * 1e4).long() % 2
        return nn.functional.one_hot(bits, 2).float()

    look = scene(coin, images=images, labels=labels)
    check = masking.raw_pixels(look)
    assert check.passed


def test_excess_is_the_exact_one_sided_binomial_test():
    none, all_ = torch.zeros(12, dtype=torch.bool), torch.ones(12, dtype=torch.bool)
    some = all_.clone()
    some[:7] = False
    assert masking.excess(some, all_) == (2**-7, 7, 0)
    assert masking.excess(all_, some) == (1.0, 0, 7)
    assert masking.excess(none, none) == (1.0, 0, 0)


def test_verdict_is_reliable_unless_a_check_failed():
    passed = Check(name="a", measured=0.0, threshold=1.0, passed=True, note="fine")
    unknown = Check(name="b", measured=None, threshold=1.0, passed=None, note="not run: no source")
    failed = Check(name="c", measured=2.0, threshold=1.0, passed=False, note="too much")
    assert masking.verdict([passed, unknown]).reliable
    found = masking.verdict([passed, failed, unknown])
    assert not found.reliable
    assert found.reasons == ("c: too much",)
    assert found.checks == (passed, failed, unknown)
