"""The player/step loop on toy objectives, before anything real is built on it."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from deconfound.core.types import Loss, Step
from deconfound.training import AveragingSettings, Hooks, LoopSettings, OptimizerSettings, SelectionSettings, fit
from toys import Game, MemoryCheckpoints, PlainCE, Rows, Sharpness, ToySource, tiny_net

PLAIN = OptimizerSettings(momentum=0.0, weight_decay=0.0)


def settings(**changes):
    base = {"epochs": 3, "batch_size": 16, "lr": 0.1, "optimizer": PLAIN, "selection": SelectionSettings(keep="last")}
    return LoopSettings(**(base | changes))


def same(first, second):
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_learns_and_reports():
    objective, source, rows = PlainCE(tiny_net()), ToySource(), Rows()
    result = fit(objective, source, settings(epochs=10), hooks=Hooks(journal=rows))
    assert [row["epoch"] for row in rows.rows] == list(range(10))
    assert rows.rows[-1]["accuracy"] > 0.9 > rows.rows[0]["accuracy"]
    assert rows.rows[-1]["loss"] < rows.rows[0]["loss"]
    assert result.epochs_run == 10
    assert result.selected_epoch == 9
    assert all(torch.equal(v, objective.model.state_dict()[k]) for k, v in result.model.items())


def test_is_plain_gradient_descent():
    source, net = ToySource(), tiny_net()
    other = copy.deepcopy(net)
    fit(PlainCE(net), source, settings(epochs=1, batch_size=64))
    loss = torch.nn.functional.cross_entropy(other(source.images), source.labels)
    gradients = torch.autograd.grad(loss, list(other.parameters()))
    for after, before, gradient in zip(net.parameters(), other.parameters(), gradients, strict=True):
        torch.testing.assert_close(after, before - 0.1 * gradient, rtol=1e-5, atol=1e-6)


def test_game_moves_one_player_at_a_time_in_order():
    game = Game(tiny_net(), nn.Linear(4, 1))
    fit(game, ToySource(), settings(epochs=1, batch_size=32, lr=0.01))
    kinds = [kind for kind, _, _ in game.seen]
    assert kinds == ["before", "between", "after"] * 2  # lazily: the second step is built after the first was taken
    for (_, critic0, model0), (_, critic1, model1), (_, critic2, model2) in zip(*[iter(game.seen)] * 3, strict=True):
        assert not same(critic0, critic1)
        assert same(model0, model1)
        assert same(critic1, critic2)
        assert not same(model1, model2)


def test_game_finds_the_saddle():
    """min over w, max over c of (w - 1) c + w^2 / 2 - c^2 / 2: saddle at w = 1/2, c = -1/2."""

    class Scalar(nn.Module):
        def __init__(self):
            super().__init__()
            self.value = nn.Parameter(torch.tensor(3.0))

    class Saddle:
        def __init__(self):
            self.model, self.critic = Scalar(), Scalar()

        def players(self):
            return {"model": self.model, "critic": self.critic}

        def payoff(self):
            w, c = self.model.value, self.critic.value
            return (w - 1) * c + w**2 / 2 - c**2 / 2

        def steps(self, batch, progress, streams):
            yield Step("critic", lambda: Loss(-self.payoff(), {}))
            yield Step("model", lambda: Loss(self.payoff(), {}))

        def declared_attacks(self):
            return ()

    objective = Saddle()
    constant = settings(epochs=50, schedule={"name": "constant"})
    fit(objective, ToySource(), constant)
    assert objective.model.value.item() == pytest.approx(0.5, abs=1e-3)
    assert objective.critic.value.item() == pytest.approx(-0.5, abs=1e-3)


def test_wrapper_evaluates_again_and_restores_before_the_step():
    source, net = ToySource(), tiny_net()
    start = copy.deepcopy(net)
    host = PlainCE(net)
    fit(Sharpness(host, rho=0.5), source, settings(epochs=1, batch_size=64))
    assert host.evaluations == 2

    perturbed = copy.deepcopy(start)
    loss = torch.nn.functional.cross_entropy(perturbed(source.images), source.labels)
    with torch.no_grad():
        for p, g in zip(perturbed.parameters(), torch.autograd.grad(loss, list(perturbed.parameters())), strict=True):
            p.add_(0.5 * g)
    loss = torch.nn.functional.cross_entropy(perturbed(source.images), source.labels)
    gradients = torch.autograd.grad(loss, list(perturbed.parameters()))
    for after, before, gradient in zip(net.parameters(), start.parameters(), gradients, strict=True):
        torch.testing.assert_close(after, before - 0.1 * gradient, rtol=1e-4, atol=1e-6)


def test_players_may_have_their_own_optimizer():
    game = Game(tiny_net(), nn.Linear(4, 1))
    frozen = copy.deepcopy(game.critic)
    tiny = OptimizerSettings(name="adamw", weight_decay=0.0)
    fit(game, ToySource(), settings(epochs=1, batch_size=64, lr=0.25, players={"critic": tiny}))
    # Adam's first step has the size of the learning rate for every weight with a gradient.
    moved = (game.critic.weight - frozen.weight).abs()
    torch.testing.assert_close(moved, torch.full_like(moved, 0.25), rtol=1e-3, atol=1e-3)


class Dropping(PlainCE):
    """A host with dropout, whose masks come from the global state."""

    def __init__(self, seed=0):
        super().__init__(nn.Sequential(tiny_net(seed, norm=True), nn.Dropout(0.3)))


@pytest.mark.parametrize("averaging", ["none", "ema", "swa"])
@pytest.mark.parametrize("stop_after", [1, 4, 6, 11])
def test_resume_is_bit_identical(averaging, stop_after):
    chosen = settings(
        averaging=AveragingSettings(name=averaging, decay=0.9, start=0.3),
        optimizer=OptimizerSettings(),
        selection=SelectionSettings(keep="best"),
    )
    source = ToySource()

    def hooks(**more):
        return Hooks(validate=lambda m: {"validation_clean": _accuracy(m, source)}, **more)

    whole = fit(Dropping(), source, chosen, hooks=hooks(journal=(rows := Rows())))
    calls, kept, journal = iter(range(1000)), MemoryCheckpoints(), Rows()
    first = fit(
        Dropping(),
        source,
        chosen,
        hooks=hooks(checkpointer=kept, should_stop=lambda: next(calls) >= stop_after - 1, journal=journal),
    )
    assert first.stopped
    torch.manual_seed(12345)  # whatever the new process draws before
    resumed = fit(Dropping(seed=9), source, chosen, hooks=hooks(checkpointer=kept, journal=journal))
    assert resumed.resumed == 1
    assert all(torch.equal(resumed.model[k], v) for k, v in whole.model.items())
    assert resumed.history == whole.history
    assert journal.rows == rows.rows


def test_a_finished_run_resumes_to_itself():
    kept, source = MemoryCheckpoints(), ToySource()
    first = fit(PlainCE(tiny_net()), source, settings(), hooks=Hooks(checkpointer=kept))
    again = fit(PlainCE(tiny_net(seed=5)), source, settings(), hooks=Hooks(checkpointer=kept))
    assert again.history == first.history
    assert all(torch.equal(again.model[k], v) for k, v in first.model.items())


def test_global_random_state_is_put_back():
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    fit(Dropping(), ToySource(), settings(epochs=1))
    assert torch.equal(torch.rand(3), expected)


def test_best_epoch_is_kept_and_patience_ends_training():
    scores = iter([0.2, 0.8, 0.5, 0.8, 0.1, 0.9])
    weights = []

    def validate(model):
        weights.append(copy.deepcopy(model.state_dict()))
        return {"validation_robust": next(scores)}

    chosen = settings(epochs=6, selection=SelectionSettings(keep="best", patience=3))
    result = fit(PlainCE(tiny_net()), ToySource(), chosen, hooks=Hooks(validate=validate))
    assert result.selected_epoch == 1  # the earlier of two equals
    assert result.epochs_run == 5  # epochs 2, 3, 4 brought nothing better
    assert all(torch.equal(result.model[k], v) for k, v in weights[1].items())


def test_all_players_are_kept_from_the_same_epoch():
    class Counted(PlainCE):
        """A second player that counts the batches it has seen."""

        def __init__(self, model):
            super().__init__(model)
            self.counter = nn.BatchNorm1d(1, affine=False)

        def players(self):
            return {"model": self.model, "counter": self.counter}

        def steps(self, batch, progress, streams):
            self.counter(torch.zeros(2, 1))
            return super().steps(batch, progress, streams)

    source, scores = ToySource(), iter([0.2, 0.8, 0.5])
    objective = Counted(tiny_net())
    chosen = settings(epochs=3, selection=SelectionSettings(keep="best"))
    result = fit(objective, source, chosen, hooks=Hooks(validate=lambda model: {"validation_robust": next(scores)}))
    assert result.selected_epoch == 1
    seen = int(objective.counter.num_batches_tracked)
    assert int(result.players["counter"]["num_batches_tracked"]) == 2 * seen // 3
    last = fit(Counted(tiny_net()), source, settings(epochs=3))
    assert int(last.players["counter"]["num_batches_tracked"]) == seen


def test_divergence_is_named_and_not_saved():
    kept = MemoryCheckpoints()
    hooks = Hooks(checkpointer=kept, checkpoint_seconds=0)
    with pytest.raises(FloatingPointError, match="training diverged: loss is not finite by epoch 1"):
        fit(PlainCE(tiny_net()), ToySource(), settings(lr=1e30, epochs=2), hooks=hooks)
    assert kept.states  # the first step's weights are huge, and finite
    for state in kept.states:
        assert all(torch.isfinite(t).all() for t in state["players"]["model"].values())


class Poisoned(PlainCE):
    """A finite loss whose gradient is NaN in one step."""

    def __init__(self, model, at):
        super().__init__(model)
        self.at = at

    def loss(self, batch):
        found = super().loss(batch)
        if self.evaluations == self.at:
            zero = self.model[-1].weight.sum() * 0
            return found._replace(total=found.total + zero.abs().sqrt())
        return found


@pytest.mark.parametrize("at", [2, 12])
def test_weights_that_are_not_finite_are_never_kept(at):
    kept = MemoryCheckpoints()
    with pytest.raises(FloatingPointError, match="not finite"):
        fit(
            Poisoned(tiny_net(), at),
            ToySource(),
            settings(epochs=3),
            hooks=Hooks(checkpointer=kept, checkpoint_seconds=0),
        )
    assert kept.states
    for state in kept.states:
        assert all(torch.isfinite(t).all() for t in state["players"]["model"].values())


def test_clipping_bounds_the_step():
    net = tiny_net()
    before = [p.detach().clone() for p in net.parameters()]
    fit(PlainCE(net), ToySource(), settings(epochs=1, batch_size=64, lr=1.0, clip_norm=0.01))
    moved = torch.cat([(a - b).flatten() for a, b in zip(net.parameters(), before, strict=True)]).norm()
    assert moved.item() == pytest.approx(0.01, rel=1e-3)


def test_every_epoch_has_its_own_order_and_all_examples_take_part():
    source = ToySource(count=48)
    seen = []

    class Spy(PlainCE):
        def steps(self, batch, progress, streams):
            seen.append((progress.epoch, batch.index.tolist()))
            return super().steps(batch, progress, streams)

    fit(Spy(tiny_net()), source, settings(epochs=2))
    first = [i for epoch, index in seen if epoch == 0 for i in index]
    second = [i for epoch, index in seen if epoch == 1 for i in index]
    assert sorted(first) == sorted(second) == list(range(48))
    assert first != second


@pytest.mark.parametrize("precision", ["bf16-mixed", "64-true"])
def test_precision(precision):
    net = tiny_net()
    from lightning_fabric import Fabric

    fabric = Fabric(accelerator="cpu", devices=1, precision=precision)
    fit(PlainCE(net), ToySource(), settings(precision=precision), fabric)
    expected = torch.float64 if precision == "64-true" else torch.float32
    assert all(p.dtype == expected for p in net.parameters())


def _accuracy(model, source):
    training = model.training
    model.eval()
    with torch.no_grad():
        share = (model(source.images).argmax(1) == source.labels).float().mean().item()
    model.train(training)
    return share


def test_catastrophic_overfitting_is_said_once():
    scores, said = iter([0.6, 0.1, 0.0]), []

    class Monitor:
        def start(self, task, total, done=0): ...

        def update(self, done, values): ...

        def message(self, text):
            said.append(text)

        def finish(self): ...

    hooks = Hooks(validate=lambda model: {"validation_robust": next(scores)}, monitor=Monitor())
    result = fit(PlainCE(tiny_net()), ToySource(), settings(epochs=3), hooks=hooks)
    assert len(said) == 1
    assert said[0].startswith("catastrophic overfitting in epoch 2: PGD accuracy fell from 60.0 % to 10.0 %")
    assert result.warnings == tuple(said)


def test_channels_last_reaches_the_network_and_the_weights():
    seen = []

    class Spy(PlainCE):
        def steps(self, batch, progress, streams):
            seen.append(batch.images.is_contiguous(memory_format=torch.channels_last))
            return super().steps(batch, progress, streams)

    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.Flatten(), nn.Linear(64, 4))
    fit(Spy(net), ToySource(), settings(epochs=1, channels_last=True))
    assert all(seen)
    assert net[2].weight.is_contiguous(memory_format=torch.channels_last)
