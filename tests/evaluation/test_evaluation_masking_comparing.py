"""Masking checks that compare attacks with each other: each fires on its fault, at a known error rate."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
import torch
from scipy.stats import binom, binomtest

from deconfound.attacks import FGSM, PGD
from deconfound.attacks.losses import margin
from deconfound.attacks.square import Square
from deconfound.core.threat import ThreatModel
from deconfound.evaluation import Probes, comparing
from deconfound.evaluation.curve import Curve, accuracy_curve
from deconfound.evaluation.ledger import Ledger
from deconfound.evaluation.meter import Meter
from deconfound.records import CurvePoint
from masking_scene import COUNT, HONEST, SOURCE, THREAT, Idle, scene


def measured_curve(look, make, radii=(0.0, 0.05, 0.15, 0.3, 1.0)):
    return accuracy_curve(look.referee, look.sample, THREAT, make, radii, Ledger(Meter(), {}))


def test_iterative_weaker_than_single_step(net):
    assert not comparing.single_step_against_iterative(scene(net, Probes(single_step=FGSM, iterative=Idle))).passed
    assert comparing.single_step_against_iterative(scene(net, Probes(single_step=Idle, iterative=PGD))).passed
    assert comparing.single_step_against_iterative(scene(net, Probes(single_step=Idle, iterative=Idle))).measured == 1


def test_gradients_weaker_than_noise(net):
    loud = ThreatModel("linf", 0.5)
    assert not comparing.noise_against_gradients(scene(net, Probes(single_step=FGSM, iterative=Idle), loud)).passed
    assert comparing.noise_against_gradients(scene(net, threat=loud)).passed


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


def test_excess_is_the_exact_one_sided_binomial_test():
    none, all_ = torch.zeros(12, dtype=torch.bool), torch.ones(12, dtype=torch.bool)
    some = all_.clone()
    some[:7] = False
    assert comparing.excess(some, all_) == (2**-7, 7, 0)
    assert comparing.excess(all_, some) == (1.0, 0, 7)
    assert comparing.excess(none, none) == (1.0, 0, 0)


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
