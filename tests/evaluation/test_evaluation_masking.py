"""Every masking check fires on its planted fault and keeps quiet on honest networks."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom, binomtest
from torch import nn

from deconfound.attacks import FGSM, PGD
from deconfound.attacks.losses import margin
from deconfound.attacks.square import Square
from deconfound.core.streams import Streams
from deconfound.core.threat import ThreatModel
from deconfound.core.types import Batch
from deconfound.evaluation import Probes, Provenance, comparing, gradients, inspecting, masking, steadiness
from deconfound.evaluation.curve import Curve, accuracy_curve
from deconfound.evaluation.judging import evaluate
from deconfound.evaluation.ledger import Ledger
from deconfound.evaluation.majority import Majority
from deconfound.evaluation.meter import Meter
from deconfound.evaluation.referee import Referee, Sample
from deconfound.evaluation.scene import affordable, scattered
from deconfound.functional.predictions import predicted
from deconfound.records import Check, CurvePoint, Machine

THREAT = ThreatModel("linf", 0.15)
torch.manual_seed(0)
SOURCE = nn.Sequential(nn.Flatten(), nn.Linear(36, 3))
HONEST = Probes(single_step=FGSM, iterative=PGD, black_box=partial(Square, queries=30), transfer=[SOURCE])
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


def scene(model, probes=HONEST, threat=THREAT, curve=None, count=COUNT, images=None, labels=None, judged_by=None):
    drawn = data()
    images, labels = (drawn[0] if images is None else images)[:count], (drawn[1] if labels is None else labels)[:count]
    referee = Referee(model, judged_by and judged_by(model), 64, seeds=5 if judged_by else 1)
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
    assert len(checks) == len({check.name for check in checks}) == 14
    assert [check.name for check in checks if check.passed is False] == []
    assert {check.name for check in checks if check.passed is None} <= {"loss follows its gradient"}, "nothing is left"
    found = masking.verdict(checks)
    assert found.reliable
    assert found.reasons == ()
    assert look.sample.correct.float().mean() > 0.95
    assert not look.after_iterative().all()


def test_undeclared_randomness(net):
    assert not steadiness.output_changes(scene(lambda x: net(x) + 0.01 * torch.randn(len(x), 3))).passed
    assert steadiness.output_changes(scene(lambda x: net(x) + 1e-6 * torch.randn(len(x), 3))).passed
    assert steadiness.output_changes(scene(nn.Sequential(nn.Dropout(0.5), net).eval())).passed
    assert not steadiness.output_changes(scene(nn.Sequential(nn.Dropout(0.5), net).train())).passed
    assert steadiness.output_changes(scene(lambda x: net(x) * torch.nan)).passed


def test_declared_randomness_is_no_fault(net):
    class Declared(nn.Module):
        def draw(self, images, streams, draws):
            noise = [streams.fold(draw).normal(tuple(images.shape[1:])) for draw in range(draws)]
            return torch.stack([net(images + 0.05 * one) for one in noise])

    look = scene(Declared(), judged_by=Majority)
    checks = {check.name: check for check in masking.examine(look)}
    assert checks["identical calls agree"].passed is checks["images are judged alone"].passed is None
    assert [name for name, check in checks.items() if check.passed is False] == []
    assert checks["zero gradients"].passed is checks["loss follows its gradient"].passed is True


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


def test_iterative_weaker_than_single_step(net):
    assert not comparing.single_step_against_iterative(scene(net, Probes(single_step=FGSM, iterative=Idle))).passed
    assert comparing.single_step_against_iterative(scene(net, Probes(single_step=Idle, iterative=PGD))).passed
    assert comparing.single_step_against_iterative(scene(net, Probes(single_step=Idle, iterative=Idle))).measured == 1


def test_gradients_weaker_than_noise(net):
    loud = ThreatModel("linf", 0.5)
    assert not comparing.noise_against_gradients(scene(net, Probes(single_step=FGSM, iterative=Idle), loud)).passed
    assert comparing.noise_against_gradients(scene(net, threat=loud)).passed


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
    check = comparing.accuracy_falls(look)
    assert not check.passed
    assert "eps 0.15" in check.note
    look.curve = measured_curve(look, PGD)
    assert comparing.accuracy_falls(look).passed
    assert comparing.accuracy_falls(scene(net)).passed is None


@pytest.mark.parametrize(("radii", "passed"), [(3, False), (4, True)])
def test_the_pairs_of_a_curve_share_one_error_rate(radii, passed):
    """Eight examples broken by the smaller radius alone have p = 2^-8: below 1 % in two pairs, above in three."""
    every = torch.ones(100, dtype=torch.bool)
    fewer = every.clone()
    fewer[:8] = False
    points = [CurvePoint(eps=e / 10, accuracy=1, interval=(0, 1), n=100, attack="a") for e in range(radii)]
    look = scene(lambda x: x.flatten(1)[:, :3])
    look.curve = Curve(tuple(points), (fewer, *[every] * (radii - 1)))
    check = comparing.accuracy_falls(look)
    assert check.measured == pytest.approx((radii - 1) * 2**-8)
    assert check.passed is passed


def test_full_range_breaks_everything_but_one(net):
    check = comparing.full_range(scene(net, Probes(single_step=FGSM, iterative=Idle)))
    assert not check.passed
    assert check.measured > 0.95

    class LeavesSome(PGD):
        left = 1

        def __call__(self, model, images, *rest, **more):
            found = super().__call__(model, images, *rest, **more)
            found[: self.left] = images[: self.left]
            return found

    assert comparing.full_range(scene(net, Probes(single_step=FGSM, iterative=LeavesSome), count=50)).passed
    LeavesSome.left = 2
    assert not comparing.full_range(scene(net, Probes(single_step=FGSM, iterative=LeavesSome), count=50)).passed
    seen = []

    def spy(threat):
        seen.append(threat)
        return PGD(threat)

    comparing.full_range(scene(net, Probes(single_step=FGSM, iterative=spy), ThreatModel("l1", 2)))
    assert seen == [ThreatModel("linf", 1.0)]


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


def test_excess_is_the_exact_one_sided_binomial_test():
    none, all_ = torch.zeros(12, dtype=torch.bool), torch.ones(12, dtype=torch.bool)
    some = all_.clone()
    some[:7] = False
    assert comparing.excess(some, all_) == (2**-7, 7, 0)
    assert comparing.excess(all_, some) == (1.0, 0, 7)
    assert comparing.excess(none, none) == (1.0, 0, 0)


def test_verdict_is_reliable_unless_a_check_failed():
    passed = Check(name="a", measured=0.0, threshold=1.0, passed=True, note="fine")
    unknown = Check(name="b", measured=None, threshold=1.0, passed=None, note="not run: no source")
    failed = Check(name="c", measured=2.0, threshold=1.0, passed=False, note="too much")
    assert masking.verdict([passed, unknown]).reliable
    found = masking.verdict([passed, failed, unknown])
    assert not found.reliable
    assert found.reasons == ("c: too much",)
    assert found.checks == (passed, failed, unknown)


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


class Oracle:
    """Hands out images that the model is known to get wrong, for the first ``breaks`` of each call."""

    name, breaks = "oracle", COUNT

    def __init__(self, threat):
        self.threat = threat

    def settings(self):
        return {}

    def __call__(self, model, images, labels, streams=None, context=None, *, judge=None):
        far = PGD(self.threat, steps=40, loss=margin)(judge or model, images, labels, streams)
        return torch.cat([far[: self.breaks], images[self.breaks :]])


LOUD = ThreatModel("linf", 0.5)


def test_gradients_weaker_than_a_black_box(net):
    weak = Probes(single_step=Idle, iterative=Idle, black_box=partial(Square, queries=30))
    check = comparing.black_box_against_gradients(scene(net, weak, LOUD))
    assert not check.passed
    assert check.measured < 1e-6
    assert "gradients alone 0" in check.note
    assert "fault below 0.01" in check.note
    assert comparing.black_box_against_gradients(scene(net, HONEST, LOUD)).passed
    without = comparing.black_box_against_gradients(scene(net, replace(HONEST, black_box=None)))
    assert (without.passed, without.note) == (None, "not run: no black-box attack")


@pytest.mark.parametrize(("breaks", "passed"), [(6, True), (7, False)])
def test_seven_to_none_are_the_fewest_that_accuse(net, breaks, passed):
    class Some(Oracle):
        pass

    Some.breaks = breaks
    check = comparing.black_box_against_gradients(
        scene(net, Probes(single_step=Idle, iterative=Idle, black_box=Some), LOUD, count=60)
    )
    assert check.measured == pytest.approx(2.0**-breaks)
    assert check.passed is passed


def test_transfer_needs_a_source(net):
    check = comparing.transfer_against_gradients(scene(net, replace(HONEST, transfer=[])))
    assert (check.passed, check.note) == (None, "not run: no source")


def test_transfer_that_is_stronger_than_the_own_gradient(net):
    """The source is the same network without its front end that cuts the gradient."""
    flat = lambda x: net(torch.round(x * 255) / 255)  # noqa: E731
    blank = lambda x: 0 * x.flatten(1)[:, :3]  # noqa: E731
    look = scene(flat, replace(HONEST, transfer=[net]), LOUD)
    check = comparing.transfer_against_gradients(look)
    assert not check.passed
    assert "transfer alone broke" in check.note
    shared = scene(flat, replace(HONEST, transfer=[blank, net, blank]), LOUD)
    third = comparing.transfer_against_gradients(shared)
    assert third.measured == pytest.approx(3 * check.measured)
    assert "source 2 of 3" in third.note
    assert comparing.transfer_against_gradients(scene(net, replace(HONEST, transfer=[flat]), LOUD)).passed


def test_transfer_is_judged_by_the_model_and_climbs_the_source(net):
    seen = []

    class Spy(PGD):
        def __call__(self, model, *rest, judge=None, **more):
            seen.append((model, judge))
            return super().__call__(model, *rest, judge=judge, **more)

    comparing.transfer_against_gradients(scene(net, Probes(single_step=FGSM, iterative=Spy, transfer=[SOURCE])))
    assert (SOURCE, net) in seen


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


@given(
    spent=st.integers(0, 10**7), looked_at=st.integers(1, 25), allowed=st.integers(0, 10**9), most=st.integers(1, 100)
)
def test_as_many_examples_as_the_allowance_pays_for(spent, looked_at, allowed, most):
    count = affordable(spent, looked_at, allowed, most)
    assert min(25, most) <= count <= most
    assert count <= min(25, most) or count * spent <= allowed * looked_at
    assert count == most or (count + 1) * max(spent, 1) > allowed * looked_at


@given(st.integers(1, 300))
def test_every_beginning_is_scattered(count):
    order = scattered(count).tolist()
    assert sorted(order) == list(range(count))
    if count >= 50:
        beginning = sorted(order[:25])
        widest = max(b - a for a, b in zip(beginning, [*beginning[1:], beginning[0] + count], strict=True))
        assert widest <= 4 * count / 25, "no gap of four times the mean"


@pytest.mark.parametrize("classes", [2, 3, 4, 5, 10])
def test_a_beginning_is_not_in_step_with_classes_that_take_turns(classes):
    assert {place % classes for place in scattered(100)[:25].tolist()} == set(range(classes))


def test_probes_climb_the_model_and_not_its_faster_copy(net):
    def copy(images):
        raise AssertionError("the copy was asked")

    given = scene(net)
    referee = Referee(net, None, 64, surrogate=copy)
    look = masking.Scene(referee, THREAT, given.sample, HONEST)
    assert torch.equal(look.after_iterative(), given.after_iterative())
    assert masking.verdict(masking.examine(look)).reliable


def test_what_was_found_on_the_first_examples_is_kept(net):
    calls = []

    class Counted(PGD):
        def __call__(self, model, images, *rest, **more):
            calls.append(len(images))
            return super().__call__(model, images, *rest, **more)

    whole, grown = scene(net), scene(net, Probes(single_step=FGSM, iterative=Counted))
    grown.look_at(30)
    first = grown.after_iterative()
    grown.look_at(100)
    assert torch.equal(grown.after_iterative(), whole.after_iterative())
    assert torch.equal(grown.after_iterative()[:30], first)
    assert torch.equal(grown.after_noise(), whole.after_noise())
    assert sum(calls) == int(whole.sample.correct.sum())


@dataclass(frozen=True)
class Costly:
    """A single step that asks the model as often as told."""

    threat: ThreatModel
    passes: int = 1
    name: str = "costly"

    def settings(self):
        return {"passes": self.passes}

    def __call__(self, model, images, labels, streams=None, context=None, *, judge=None):
        with torch.no_grad():
            for _ in range(self.passes):
                model(images)
        return images.clone()


@pytest.mark.parametrize(("cost", "looked_at"), [(1, 25), (1400, None), (6000, 100)])
def test_the_checks_take_a_tenth_of_the_suite_or_25_examples(net, cost, looked_at):
    images, labels = data()
    origin = Provenance(
        model="m",
        model_digest="m",
        data="d",
        data_digest="d",
        class_names=("a", "b", "c"),
        machine=Machine(device="cpu", processor="any", threads=1, versions={}),
    )
    made = evaluate(
        nn.Sequential(net),
        images,
        labels,
        threat=ThreatModel("linf", 0.02),
        attacks=[Costly(ThreatModel("linf", 0.02), cost)],
        suite="costly",
        provenance=origin,
        probes=Probes(single_step=FGSM, iterative=PGD, black_box=partial(Square, queries=200), transfer=[SOURCE]),
    )
    (check,) = (check for check in made.verdict.checks if check.name == "gradients not weaker than black box")
    count = int(check.note.split()[1])
    (note,) = (note for note in made.notes if note.startswith("masking checks"))
    forwards, backwards = (int(part.split()[0]) for part in note.split(", ")[1:3])
    spent, allowed = forwards + 2 * backwards, (made.forwards + 2 * made.backwards) / 10
    if looked_at is None:
        assert 25 < count < 100
        assert 0.8 * allowed < spent < 1.1 * allowed
    else:
        assert count == looked_at
        assert (spent > allowed) is (count == 25)


def test_two_equally_strong_attacks_are_told_apart_in_at_most_one_of_a_hundred():
    """Exactly: for every number m of points broken by only one, P(p < 1 %) <= 1 % under Bin(m, 1/2)."""
    for m in range(1, 101):
        accused = [a for a in range(m + 1) if binomtest(a, m, 0.5, alternative="greater").pvalue < 0.01]
        assert float(binom.pmf(accused, m, 0.5).sum()) <= 0.01


def test_false_alarms_of_equally_strong_attacks_in_simulation():
    """4000 pairs of attacks that break each of 100 points with the same chance, independently.

    With a true rate of 1 %, which the test does not exceed, 60 alarms or more have probability 0.0018.
    """
    generator = torch.Generator().manual_seed(7)
    alarms = 0
    for _ in range(4000):
        chance = torch.rand(100, generator=generator)
        one, other = (torch.rand(100, generator=generator) < chance for _ in range(2))
        alarms += comparing.excess(one, other)[0] < comparing.SIGNIFICANCE
    assert binom.sf(59, 4000, 0.01) < 0.002
    assert 0 < alarms < 60
