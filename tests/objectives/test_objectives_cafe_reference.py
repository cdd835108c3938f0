"""Causal inoculation around a host: few passes, the host's scope, a frozen or a live reference, several looks."""

from __future__ import annotations

import copy
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch

from deconfound.core.streams import Streams
from deconfound.functional.losses import kl_divergence
from deconfound.models import CausalFeatureMap, CiiV, Sampling, causal_net
from deconfound.objectives import Inoculated
from deconfound.objectives.ciiv import CiiVAdversarialTraining
from inoculated import ATTACK, INVERSION, MIDDLE, batch_of, host_of, model_step, reference
from toys import SplitNet


@pytest.mark.parametrize(("name", "host_passes"), [("adv", 2 + 1), ("trades", 2 + 1 + 2), ("causaladv", 1 + 1 + 2 + 1)])
def test_passes_are_as_few_as_can_be(name, host_passes):
    """The host's own; the inversion's three; one of x_causal; one of the reference for x and x~ together."""
    objective, batch = Inoculated(host_of(name), reference(), INVERSION), batch_of()
    objective.model.passes = objective.causal.network.passes = 0
    model_step(objective, batch).loss()
    assert objective.model.passes == host_passes + INVERSION.steps + 1
    seen = []
    objective.causal.network.conv.register_forward_pre_hook(lambda _, given: seen.append(len(given[0])))
    model_step(objective, batch).loss()
    assert seen == [2 * len(batch.labels)]


class Silent:
    """A host that hands on neither its logits nor its images."""

    def __init__(self, host):
        self.host = host
        self.players, self.craft, self.declared_attacks = host.players, host.craft, host.declared_attacks

    def loss(self, *given):
        return self.host.loss(*given)._replace(adversarial=None)

    def steps(self, batch, progress, streams):
        for step in self.host.steps(batch, progress, streams):
            yield replace(step, loss=lambda step=step: step.loss()._replace(adversarial=None), adversarial=None)


def test_a_host_that_hands_nothing_on_costs_more_and_ends_the_same():
    batch = batch_of()
    known, silent = host_of("adv"), Silent(host_of("adv"))
    first, second = (model_step(Inoculated(h, reference(), INVERSION), batch).loss() for h in (known, silent))
    torch.testing.assert_close(first.total, second.total)


class Shifted:
    """A wrapper whose scope moves the weights, as an adversarial weight perturbation does."""

    def __init__(self, host, by):
        self.host, self.by = host, by
        self.players, self.craft, self.loss = host.players, host.craft, host.loss
        self.declared_attacks = host.declared_attacks

    def steps(self, batch, progress, streams):
        for step in self.host.steps(batch, progress, streams):
            yield replace(step, scope=lambda: self._moved(1.0))

    @contextmanager
    def _moved(self, sign):
        weight = self.players()["model"].last.weight
        with torch.no_grad():
            weight.add_(self.by)
        try:
            yield
        finally:
            with torch.no_grad():
                weight.sub_(self.by)


@pytest.mark.parametrize("kind", ["frozen", "live"])
def test_inside_the_hosts_scope_everything_has_its_weights(kind):
    """Images are crafted before; target (live), inversion and losses follow the perturbed weights."""
    batch, by = batch_of(), torch.randn(4, 16)
    objective = Inoculated(Shifted(host_of("adv"), by), reference(), INVERSION, reference=kind)
    step = model_step(objective, batch)
    with step.scope():
        found = step.loss()
    moved = host_of("adv")
    with torch.no_grad():
        moved.model.last.weight.add_(by)
    twin = Inoculated(moved, reference(), INVERSION, reference=kind)
    expected = twin.loss(batch, step.adversarial, MIDDLE, Streams(0, batch.index))
    torch.testing.assert_close(found.total, expected.total)
    outside = step.loss()
    assert not torch.allclose(outside.total, expected.total, rtol=1e-3)


def test_a_live_reference_is_the_model_in_train_mode():
    objective, batch = Inoculated(host_of("adv"), reference(), INVERSION, reference="live"), batch_of()
    h = objective.players()["causal"]
    model, made = copy.deepcopy(objective.model), batch.images.flip(0)
    h.train()
    found = objective.target(batch.images, made)
    assert h.training  # put back
    natural, moved = model.features(batch.images), model.features(made)
    expected = model.head(natural + h.eval()(moved - natural))
    torch.testing.assert_close(found, expected.detach())
    assert not found.requires_grad
    assert set(objective.players()) == {"model", "causal"}
    assert next(h.parameters()) is next(objective.causal.hypothesis.parameters())


def test_the_frozen_reference_is_in_evaluation_whatever_the_loop_sets():
    causal = reference()
    objective, batch = Inoculated(host_of("adv"), causal, INVERSION), batch_of()
    causal.train()
    found = objective.target(batch.images, batch.images.flip(0))
    assert causal.network.training
    causal.eval()
    natural, moved = causal.features(batch.images), causal.features(batch.images.flip(0))
    torch.testing.assert_close(found, causal.causal(natural, moved).detach())
    one = objective.target(batch.images[:1], batch.images.flip(0)[:1])
    torch.testing.assert_close(one, found[:1])  # nothing depends on the batch


def test_a_network_that_looks_several_times():
    def network(seed):
        return CiiV(SplitNet(seed, channels=3), Sampling(loops=2), channels=1, size=8, mean=0.5, std=0.25)

    torch.manual_seed(0)
    frozen = network(3)
    causal = CausalFeatureMap(frozen, causal_net((2, 16)))
    host = CiiVAdversarialTraining(network(0), ATTACK)
    objective, batch = Inoculated(host, causal, INVERSION), batch_of()
    step = model_step(objective, batch)
    loss = step.loss()
    assert loss.total.isfinite()
    assert torch.equal(loss.total, step.loss().total)
    inverted = objective.invert(batch.images, batch.labels, step.adversarial, Streams(0, batch.index))
    views = [host.loss(batch, one, MIDDLE, Streams(0, batch.index)).adversarial for one in (step.adversarial, inverted)]
    assert float(loss.parts["causal_kl"]) == pytest.approx(float(kl_divergence(*views).mean().detach()), rel=1e-4)
