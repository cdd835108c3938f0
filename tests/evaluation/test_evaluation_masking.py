"""The masking checks together: quiet on honest networks, as many examples as the suite pays for, one verdict."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from deconfound.attacks import FGSM, PGD
from deconfound.attacks.square import Square
from deconfound.core.threat import ThreatModel
from deconfound.evaluation import Probes, Provenance, masking
from deconfound.evaluation.curve import accuracy_curve
from deconfound.evaluation.judging import evaluate
from deconfound.evaluation.ledger import Ledger
from deconfound.evaluation.majority import Majority
from deconfound.evaluation.meter import Meter
from deconfound.evaluation.referee import Referee
from deconfound.evaluation.scene import affordable, scattered
from deconfound.records import Check, Machine
from masking_scene import HONEST, SOURCE, THREAT, data, scene, trained


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
@pytest.mark.parametrize("kind", ["linear", "mlp"])
def test_honest_networks_pass_every_check(kind, norm):
    model = trained(kind)
    threat = ThreatModel(norm, {"linf": 0.15, "l2": 0.7, "l1": 3.0}[norm])
    look = scene(model, threat=threat)
    radii = [radius for radius in (0, 0.1, 0.5, 1.0, 3.0) if norm != "linf" or radius <= 1]
    look.curve = accuracy_curve(look.referee, look.sample, threat, PGD, radii, Ledger(Meter(), {}))
    checks = masking.examine(look)
    assert len(checks) == len({check.name for check in checks}) == 15
    assert [check.name for check in checks if check.passed is False] == []
    not_run = {check.name for check in checks if check.passed is None}
    assert not_run <= {"loss follows its gradient", "declared attacks were run"}, (
        "nothing is left, and none are declared"
    )
    found = masking.verdict(checks)
    assert found.reliable
    assert found.reasons == ()
    assert look.sample.correct.float().mean() > 0.95
    assert not look.after_iterative().all()


def test_declared_randomness_is_no_fault(net):
    class Declared(nn.Module):
        def draw(self, images, streams, draws):
            noise = [streams.fold(draw).normal(tuple(images.shape[1:])) for draw in range(draws)]
            return torch.stack([net(images + 0.05 * one) for one in noise])

    look = scene(Declared(), judged_by=Majority, threat=ThreatModel("linf", 0.05))
    checks = {check.name: check for check in masking.examine(look)}
    assert checks["identical calls agree"].passed is checks["images are judged alone"].passed is None
    assert [name for name, check in checks.items() if check.passed is False] == []
    assert checks["zero gradients"].passed is checks["loss follows its gradient"].passed is True


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


def test_verdict_is_reliable_unless_a_check_failed():
    passed = Check(name="a", measured=0.0, threshold=1.0, passed=True, note="fine")
    unknown = Check(name="b", measured=None, threshold=1.0, passed=None, note="not run: no source")
    failed = Check(name="c", measured=2.0, threshold=1.0, passed=False, note="too much")
    assert masking.verdict([passed, unknown]).reliable
    found = masking.verdict([passed, failed, unknown])
    assert not found.reliable
    assert found.reasons == ("c: too much",)
    assert found.checks == (passed, failed, unknown)


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
