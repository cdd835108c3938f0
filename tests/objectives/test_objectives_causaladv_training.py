"""CausalAdv in training: how few passes, wrappers around it, the objectives it contains, learning and going on."""

from __future__ import annotations

import pytest
import torch

from causal_steps import MIDDLE, THREAT, causal, loop, same, state, streams, toy_batch, train_step
from deconfound.attacks import PGD
from deconfound.attacks.losses import kl_to_reference
from deconfound.core.types import Step
from deconfound.objectives import AdversarialTraining, CausalAdv, Trades
from deconfound.training import Hooks, OptimizerSettings, fit
from toys import MemoryCheckpoints, Sharpness, SplitNet, ToySource


def test_passes_of_a_batch_are_as_few_as_can_be():
    """Train mode: one clean, one adversarial; eval mode: one for the target and one for each attack step."""
    for variant in ("m", "t"):
        objective, batch = causal(variant, norm=True, steps=5), toy_batch()
        train_step(objective, batch)
        objective.model.passes = 0
        before = objective.model.norm.num_batches_tracked.item()
        train_step(objective, batch)
        assert objective.model.passes == 1 + 1 + 5 + 1
        assert objective.model.norm.num_batches_tracked.item() == before + 2


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("variant", ["m", "t"])
def test_the_kept_graph_gives_the_gradient_of_a_fresh_one(variant, autocast):
    found = []
    for fresh in (False, True):
        objective, batch = causal(variant), toy_batch()
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            steps = objective.steps(batch, MIDDLE, streams(batch))
            next(steps).loss()
            step = next(steps)
        objective.model.passes = 0
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            if fresh:
                assert objective._held.take() is not None  # spent: the loss has to make its own
            loss = step.loss()
        assert objective.model.passes == 1 + fresh
        loss.total.backward(inputs=list(objective.model.parameters()))
        found.append([loss.total.detach(), *(p.grad for p in objective.model.parameters())])
        assert all(bool(p.grad.any()) for p in objective.model.parameters())
    # Under autocast one cast of a weight serves both passes of one context, and its gradient is summed in bfloat16.
    tolerance = 2e-2 if autocast else 0.0
    for kept, made in zip(*found, strict=True):
        torch.testing.assert_close(kept, made, rtol=0, atol=tolerance * float(made.abs().max()))


def test_a_written_weight_is_noticed():
    objective, batch = causal(), toy_batch()
    steps = objective.steps(batch, MIDDLE, streams(batch))
    next(steps).loss()
    step = next(steps)
    with torch.no_grad():
        objective.model.wide.weight.add_(0.1)
    twin, adversarial = causal(), objective.craft(batch, MIDDLE, streams(batch))
    twin.model.load_state_dict(objective.model.state_dict())
    twin.players()["style"].load_state_dict(objective.players()["style"].state_dict())
    objective.model.passes = 0
    assert objective._held.take() is None
    held = objective._held.basis.matrix
    found = step.loss()
    assert objective.model.passes == 2
    features = twin.model.features(batch.images)
    natural = twin._shift(features, twin.model.features(adversarial), held, batch.labels, 0.5)
    assert torch.isfinite(natural)
    assert torch.equal(found.total, step.loss().total)


def test_loss_and_craft_work_without_their_steps():
    objective, batch = causal(), toy_batch()
    train_step(objective, batch)
    made = objective.craft(batch, MIDDLE, streams(batch))
    before = state(objective)
    first, second = (objective.loss(batch, made, MIDDLE, streams(batch)) for _ in range(2))
    assert torch.equal(first.total, second.total)
    first.total.backward()
    assert same(state(objective), before)
    other = toy_batch(8)
    steps = objective.steps(batch, MIDDLE, streams(batch))
    next(steps)
    apart = objective.loss(other, other.images, MIDDLE, streams(other))  # another batch than the one under way
    assert torch.isfinite(apart.total)
    assert objective._held.take() is not None
    steps.close()
    assert objective._held is None


def test_wrappers_that_evaluate_twice_under_moved_weights():
    """Both players' losses are evaluated again inside the scope; statistics move once."""
    objective, batch = causal(norm=True), toy_batch()
    wrapped = Sharpness(objective, rho=0.05)
    for _ in range(2):
        before = objective.players()["style"].own.count.sum().item()
        taken = train_step(wrapped, batch)
        assert [player for player, _ in taken] == ["style", "model"]
        assert objective.players()["style"].own.count.sum().item() == before + 16
        assert objective.players()["style"].norm.num_batches_tracked.item() == before // 16 + 1
    plain = causal(norm=True)
    train_step(plain, batch)
    assert not same(state(plain), state(objective))


def test_a_zero_perturbation_by_a_wrapper_changes_nothing():
    wrapped, plain, batch = causal(), causal(), toy_batch()
    for _ in range(3):
        train_step(Sharpness(wrapped, rho=0.0), batch)
        train_step(plain, batch)
    for name, value in state(plain).items():
        torch.testing.assert_close(state(wrapped)[name], value, rtol=0, atol=1e-6)


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("variant", ["m", "t"])
def test_without_style_it_is_the_objective_it_extends(variant, norm):
    if variant == "m":
        attack = PGD(THREAT, steps=3, keep="last")
        reference = AdversarialTraining(SplitNet(norm=norm), attack, warmup=0.5)
    else:
        attack = PGD(THREAT, steps=3, keep="last", loss=kl_to_reference, start="gaussian")
        reference = Trades(SplitNet(norm=norm), attack, warmup=0.5)
    objective = CausalAdv(SplitNet(norm=norm), None, attack, variant, alpha=0.0, warmup=0.5)
    batch = toy_batch()
    assert torch.equal(*(o.craft(batch, MIDDLE, streams(batch)) for o in (reference, objective)))
    first, second = (fit(o, ToySource(), loop()) for o in (reference, objective))
    assert all(torch.equal(first.model[name], second.model[name]) for name in first.model)
    assert first.history == second.history
    assert objective.declared_attacks() == ()
    assert set(objective.players()) == {"model"}
    start = SplitNet(norm=norm).state_dict()
    assert float((second.model["wide.weight"] - start["wide.weight"]).abs().max()) > 0.01


@pytest.mark.parametrize("variant", ["m", "t"])
def test_training_learns_and_logs_every_part(variant):
    objective = causal(variant, norm=True)
    result = fit(objective, ToySource(), loop(epochs=10, optimizer=OptimizerSettings(weight_decay=2e-4)))
    row = result.history[-1]
    parts = {"m": {"adversarial_cross_entropy"}, "t": {"cross_entropy", "kl"}}[variant]
    assert parts | {"style_shift", "style_loss", "style_leakage", "style_accuracy", "accuracy"} <= row.keys()
    assert row["accuracy"] > 0.9
    assert row["style_loss"] < result.history[0]["style_loss"]
    assert row["style_leakage"] < 1e-4
    assert objective.players()["style"].own.count.sum().item() == 640


@pytest.mark.parametrize("variant", ["m", "t"])
def test_a_continued_run_is_the_same_run(variant):
    whole = causal(variant, norm=True)
    fit(whole, ToySource(), loop())
    kept, asked = MemoryCheckpoints(), []
    first = causal(variant, norm=True)
    stop = lambda: len(asked) >= 6 or asked.append(1)  # noqa: E731
    fit(first, ToySource(), loop(), hooks=Hooks(checkpointer=kept, should_stop=stop))
    second = causal(variant, seed=7, norm=True)
    assert not same(state(first), state(second))
    result = fit(second, ToySource(), loop(), hooks=Hooks(checkpointer=MemoryCheckpoints(kept.states)))
    assert result.resumed == 1
    assert same(state(second), state(whole))


def test_double_precision_holds_throughout():
    objective = causal(norm=True)
    fit(objective, ToySource(), loop(epochs=1, precision="64-true"))
    floats = [value for value in state(objective).values() if value.is_floating_point()]
    assert {value.dtype for value in floats} == {torch.float64}


def test_a_step_is_data():
    objective, batch = causal(), toy_batch()
    assert all(isinstance(step, Step) for step in objective.steps(batch, MIDDLE, streams(batch)))
