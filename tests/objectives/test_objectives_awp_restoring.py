"""Weight perturbation restores exactly, whatever happens inside it."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from deconfound.core.streams import Streams
from deconfound.functional.norms import relative_ascent
from deconfound.objectives import WeightPerturbed
from deconfound.objectives.awp import perturbed
from deconfound.training import LoopSettings, OptimizerSettings, SelectionSettings, fit
from perturbed_hosts import PROGRESS, Given, causaladv, pgd_at, plain, same, setting, weights
from toys import SplitNet, ToySource, tiny_net


class TestRestoring:
    def test_bit_for_bit_also_after_an_exception(self):
        """Weights over many magnitudes, where w + v - v is not w."""
        model, (batch, streams) = tiny_net(norm=True), setting()
        with torch.no_grad():
            model[0].weight.mul_(torch.logspace(-6, 3, 4).view(4, 1, 1, 1))
        before, buffers = weights(model), [b.clone() for b in model.buffers()]
        (step,) = WeightPerturbed(pgd_at(model), gamma=0.5).steps(batch, PROGRESS, streams)

        def fails():
            with step.scope():
                assert not same(before, weights(model))
                raise RuntimeError("planted")

        with pytest.raises(RuntimeError, match="planted"):
            fails()
        assert same(before, weights(model))
        assert same(buffers, list(model.buffers()))  # the ascent alone moved nothing

    def test_naive_subtraction_would_not_do(self):
        model, (batch, streams) = tiny_net(), setting()
        before = weights(model)
        (step,) = WeightPerturbed(pgd_at(model), gamma=0.5).steps(batch, PROGRESS, streams)
        with step.scope():
            moved = [now - was for now, was in zip(weights(model), before, strict=True)]
            back = [now - by for now, by in zip(weights(model), moved, strict=True)]
        assert not same(before, back)
        assert same(before, weights(model))

    def test_when_the_hosts_loss_fails(self):
        model, (batch, streams) = tiny_net(), setting()
        before, calls = weights(model), []

        def failing(logits, batch):
            calls.append(1)
            if len(calls) > 1:
                raise FloatingPointError("planted")
            return plain(logits, batch)

        (step,) = WeightPerturbed(Given(model, failing), gamma=0.1).steps(batch, PROGRESS, streams)
        with pytest.raises(FloatingPointError), step.scope():
            step.loss()
        assert same(before, weights(model))

    def test_when_training_fails_or_the_steps_are_closed(self):
        model, (batch, streams) = SplitNet(), setting()
        before = weights(model)
        steps = WeightPerturbed(causaladv(model), gamma=0.1).steps(batch, PROGRESS, streams)
        taken = [next(steps), next(steps)]
        assert [step.player for step in taken] == ["style", "model"]
        scope = taken[1].scope()
        scope.__enter__()
        assert not same(before, weights(model))
        steps.close()
        scope.__exit__(None, None, None)
        assert same(before, weights(model))

    def test_an_abandoned_scope_is_left_too(self):
        model, (batch, streams) = tiny_net(), setting()
        before = weights(model)
        (step,) = WeightPerturbed(pgd_at(model), gamma=0.1).steps(batch, PROGRESS, streams)
        scope = step.scope()
        scope.__enter__()
        del scope
        assert same(before, weights(model))

    def test_the_loop_steps_from_the_restored_weights(self):
        """One step of SGD with weight decay: w - lr (g(w + v) + d w), exactly as by hand."""
        model = tiny_net()
        by_hand, gamma = copy.deepcopy(model), 0.2
        source = ToySource(16)
        settings = LoopSettings(
            epochs=1,
            batch_size=16,
            lr=0.1,
            optimizer=OptimizerSettings(momentum=0.0, weight_decay=0.1),
            selection=SelectionSettings(keep="last"),
        )
        seen = []

        class Watched(WeightPerturbed):
            def steps(self, batch, progress, streams):
                for step in super().steps(batch, progress, streams):
                    seen.append((batch, step.adversarial))
                    yield step

        fit(Watched(pgd_at(model), gamma), source, settings)
        (batch, adversarial), host = seen[0], pgd_at(by_hand)
        start = weights(by_hand)
        first = torch.autograd.grad(
            host.loss(batch, adversarial, PROGRESS, Streams(0, batch.index)).total, list(by_hand.parameters())
        )
        with torch.no_grad():
            for p, g in zip(by_hand.parameters(), first, strict=True):
                if p.ndim > 1:
                    p.add_(relative_ascent(p, g, gamma))
        second = torch.autograd.grad(
            host.loss(batch, adversarial, PROGRESS, Streams(0, batch.index)).total, list(by_hand.parameters())
        )
        for found, w, g in zip(model.parameters(), start, second, strict=True):
            torch.testing.assert_close(found.detach(), w - 0.1 * (g + 0.1 * w), rtol=1e-5, atol=1e-7)


def test_it_can_be_a_host_itself_and_a_scope_of_the_host_is_entered_first():
    model, (batch, streams) = tiny_net(), setting()
    before = weights(model)
    (step,) = WeightPerturbed(WeightPerturbed(pgd_at(model), 0.1), 0.1).steps(batch, PROGRESS, streams)
    with step.scope():
        step.loss()
    assert same(before, weights(model))


def test_perturbed_is_for_any_loss():
    model, (batch, _) = tiny_net(), setting()
    before = weights(model)
    with perturbed(model, lambda: plain(model(batch.images), batch), 0.1):
        for now, was in zip(weights(model), before, strict=True):
            if was.ndim > 1:
                assert float((now - was).norm()) == pytest.approx(0.1 * float(was.norm()), rel=1e-4)
    with perturbed(nn.ReLU(), lambda: pytest.fail("nothing to ascend"), 0.1):
        pass
