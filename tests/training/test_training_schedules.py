"""Schedules, optimisers, averages and settings: closed forms."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from deconfound.core.types import Loss, Progress
from deconfound.training import AveragingSettings, Hooks, LoopSettings, OptimizerSettings, ScheduleSettings, fit
from deconfound.training import SelectionSettings as Selection
from deconfound.training.averaging import NEVER, WeightAverage
from deconfound.training.optim import build_optimizer, multiplier, set_learning_rate
from toys import PlainCE, ToySource, tiny_net


def curve(epochs, steps, **settings):
    schedule = ScheduleSettings(**settings)
    return [
        multiplier(schedule, Progress(epoch=e, epochs=epochs, step=s, steps=steps))
        for e in range(epochs)
        for s in range(steps)
    ]


def test_constant():
    assert curve(3, 2, name="constant") == [1.0] * 6


def test_piecewise_falls_at_the_epoch_that_begins_at_or_after_a_milestone():
    assert curve(4, 2, name="piecewise") == pytest.approx([1, 1, 1, 1, 0.1, 0.1, 0.01, 0.01])
    assert curve(5, 1, name="piecewise") == pytest.approx([1, 1, 1, 0.1, 0.01])  # 0.5 and 0.75 lie inside epochs 2, 3
    assert curve(5, 2, name="piecewise") == pytest.approx([1, 1, 1, 1, 1, 1, 0.1, 0.1, 0.01, 0.01])
    assert curve(3, 1, name="piecewise", milestones=(), factor=0.5) == [1, 1, 1]
    assert curve(4, 1, name="piecewise", milestones=(0.0, 0.25, 0.25), factor=0.5) == [0.5, 0.125, 0.125, 0.125]
    thirds = curve(30, 1, name="piecewise", milestones=(0.1, 0.7), factor=0.1)
    assert thirds == pytest.approx([1] * 3 + [0.1] * 18 + [0.01] * 9)  # 0.1 and 0.7 are not exact in binary


def test_cosine_is_half_a_wave():
    values = curve(5, 4, name="cosine")
    expected = [(1 + math.cos(math.pi * t / 20)) / 2 for t in range(20)]
    assert values == pytest.approx(expected)
    assert values[0] == 1
    assert values[10] == pytest.approx(0.5)
    assert values[-1] == pytest.approx(math.sin(math.pi / 40) ** 2)  # the last step still moves


@pytest.mark.parametrize("peak", [0.2, 0.4, 0.5])
def test_triangular_is_one_cycle(peak):
    values = curve(5, 4, name="triangular", peak=peak)
    for t, value in enumerate(values):
        middle = (t + 0.5) / 20
        assert value == pytest.approx(min(middle / peak, (1 - middle) / (1 - peak)))
    assert values[0] == pytest.approx(0.025 / peak)
    assert values[-1] == pytest.approx(0.025 / (1 - peak))
    assert values.index(max(values)) in (round(20 * peak) - 1, round(20 * peak))
    assert max(values) < 1


def test_the_loop_follows_the_schedule():
    """Plain descent of a loss that is linear in one weight: the weight moves by the sum of all learning rates."""

    class Slope(PlainCE):
        def loss(self, batch):
            return Loss(self.model.weight.sum(), {})

    net = nn.Conv2d(1, 1, 1, bias=False)
    before = net.weight.item()
    settings = LoopSettings(
        epochs=4,
        batch_size=16,
        lr=0.01,
        optimizer=OptimizerSettings(momentum=0.0, weight_decay=0.0),
        schedule=ScheduleSettings(name="cosine"),
        selection=Selection(keep="last"),
    )
    result = fit(Slope(net), ToySource(), settings)
    total = sum(curve(4, 4, name="cosine"))
    assert before - net.weight.item() == pytest.approx(0.01 * total, rel=1e-5)
    assert [row["lr"] for row in result.history] == pytest.approx([0.01 * v for v in curve(4, 4, name="cosine")[::4]])


def test_optimisers_are_built_as_told():
    net = tiny_net()
    sgd = build_optimizer(OptimizerSettings(momentum=0.8, nesterov=True, weight_decay=0.01), net.parameters(), 0.3)
    assert isinstance(sgd, torch.optim.SGD)
    (group,) = sgd.param_groups
    assert (group["lr"], group["momentum"], group["nesterov"], group["weight_decay"]) == (0.3, 0.8, True, 0.01)
    adam = build_optimizer(
        OptimizerSettings(name="adamw", betas=(0.5, 0.7), amsgrad=True, weight_decay=0.2), net.parameters(), 0.1
    )
    assert isinstance(adam, torch.optim.AdamW)
    (group,) = adam.param_groups
    assert (group["lr"], group["betas"], group["amsgrad"], group["weight_decay"]) == (0.1, (0.5, 0.7), True, 0.2)
    adam.add_param_group({"params": [nn.Parameter(torch.zeros(1))], "lr": 7.0})
    set_learning_rate(adam, 0.4)
    assert [group["lr"] for group in adam.param_groups] == [0.4, 0.4]


class Path(nn.Module):
    """A weight, a floating buffer and a counter that take given values."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(2, dtype=torch.float64))
        self.register_buffer("mean", torch.zeros(2, dtype=torch.float64))
        self.register_buffer("count", torch.tensor(0))

    def go(self, value):
        with torch.no_grad():
            self.weight.fill_(value)
            self.mean.fill_(-value)
            self.count.fill_(10)
        return self


VALUES = [3.0, -1.0, 4.0, 1.0, -5.0, 9.0]


def test_ema_is_the_exponential_mean_from_the_first_step_on():
    """Sum over i of w_i (1 - d_i) prod of the later d_j, d_1 = 0, d_t = min(d, t / (t + 9)); epochs do not count."""
    net, decay = Path(), 0.3
    average = WeightAverage(AveragingSettings(name="ema", decay=decay), net)
    assert not average.ready()
    for t, value in enumerate(VALUES, 1):
        average.after_step(net.go(value))
        average.after_epoch(net, Progress(epoch=t, epochs=6))
        factors = [0.0, *(min(decay, i / (i + 9)) for i in range(2, t + 1))]  # 2/11, 3/12, then 0.3
        shares = [(1 - factors[i]) * math.prod(factors[i + 1 :]) for i in range(t)]
        assert sum(shares) == pytest.approx(1)
        expected = sum(share * value for share, value in zip(shares, VALUES, strict=False))
        assert average.model.weight.tolist() == pytest.approx([expected] * 2)
        assert average.model.mean.tolist() == pytest.approx([-expected] * 2)
    assert average.ready()
    assert net.weight.tolist() == [VALUES[-1]] * 2  # the trained network itself is left alone


def test_a_short_ema_forgets_its_first_step():
    """Of the first of a hundred steps a decay of 0.999 would keep nine tenths."""
    net = Path()
    average = WeightAverage(AveragingSettings(name="ema", decay=0.999), net)
    for value in [1.0] + [0.0] * 99:
        average.after_step(net.go(value))
    kept = math.prod(i / (i + 9) for i in range(2, 101))
    assert average.model.weight.tolist() == pytest.approx([kept] * 2)
    assert kept < 1e-6


def test_an_average_that_never_began_is_said():
    """Patience ends training before SWA begins."""
    chosen = LoopSettings(
        epochs=10, batch_size=64, lr=0.1, averaging=AveragingSettings(name="swa"), selection=Selection(patience=1)
    )
    result = fit(PlainCE(tiny_net()), ToySource(), chosen, hooks=Hooks(validate=lambda _: {"validation_clean": 0.5}))
    assert result.epochs_run == 2
    assert result.warnings == (NEVER,)


def test_swa_is_the_plain_mean_of_the_epochs_after_its_start():
    net = Path()
    average = WeightAverage(AveragingSettings(name="swa", start=0.5), net)
    for epoch, value in enumerate(VALUES):
        average.after_step(net.go(value))
        average.after_epoch(net, Progress(epoch=epoch, epochs=6))
        taken = VALUES[3 : epoch + 1]
        assert average.ready() == bool(taken)
        if taken:
            assert average.model.weight.tolist() == pytest.approx([sum(taken) / len(taken)] * 2)
            assert average.model.mean.tolist() == pytest.approx([-sum(taken) / len(taken)] * 2)
            assert average.model.count.item() == 10


@pytest.mark.parametrize("name", ["ema", "swa"])
def test_an_average_continues_from_its_state(name):
    net = Path()
    settings = AveragingSettings(name=name, decay=0.6, start=0.0)
    first = WeightAverage(settings, net)

    def feed(average, steps):
        for k in steps:
            average.after_step(net.go(VALUES[k]))
            average.after_epoch(net, Progress(epoch=k, epochs=6))

    feed(first, range(3))
    second = WeightAverage(settings, Path())
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    feed(first, range(3, 6))
    feed(second, range(3, 6))
    assert torch.equal(first.model.weight, second.model.weight)
    assert torch.equal(first.model.mean, second.model.mean)


def test_the_loop_keeps_the_average():
    """SWA over two epochs of one step each: the mean of the weights after each."""
    net, source = tiny_net(), ToySource()
    seen = []

    class Spy(PlainCE):
        def steps(self, batch, progress, streams):
            seen.append([p.detach().clone() for p in self.model.parameters()])
            return super().steps(batch, progress, streams)

    settings = LoopSettings(
        epochs=2,
        batch_size=64,
        lr=0.1,
        averaging=AveragingSettings(name="swa", start=0.0),
        selection=Selection(keep="last"),
    )
    result = fit(Spy(net), source, settings)
    for kept, first, second in zip(result.model.values(), seen[1], net.parameters(), strict=True):
        torch.testing.assert_close(kept, (first + second.detach()) / 2)


BASE = {"epochs": 1, "batch_size": 1, "lr": 0.1}


@pytest.mark.parametrize(
    "bad",
    [
        {"epochs": 0},
        {"batch_size": 0},
        {"lr": 0},
        {"lr": float("nan")},
        {"lr": float("inf")},
        {"seed": -1},
        {"seed": 2**63},
        {"precision": "16-mixed"},
        {"clip_norm": 0},
        {"momentum": 0.9},
        {"optimizer": {"name": "adam"}},
        {"optimizer": {"momentum": 1}},
        {"optimizer": {"momentum": 0, "nesterov": True}},
        {"optimizer": {"betas": (0.9, 1.0)}},
        {"optimizer": {"weight_decay": -1}},
        {"schedule": {"name": "linear"}},
        {"schedule": {"milestones": (0.75, 0.5)}},
        {"schedule": {"milestones": (1.5,)}},
        {"schedule": {"factor": 0}},
        {"schedule": {"peak": 0}},
        {"schedule": {"peak": 1}},
        {"averaging": {"decay": 1}},
        {"averaging": {"start": 1.1}},
        {"averaging": {"start": 1.0}},  # no epoch ends after it
        {"selection": {"size": 0}},
        {"selection": {"size": 0, "keep": "last", "patience": 2}},
        {"selection": {"patience": 0}},
    ],
    ids=str,
)
def test_bad_settings_are_refused(bad):
    with pytest.raises(ValidationError):
        LoopSettings(**(BASE | bad))


def test_settings_are_frozen_and_round_trip():
    settings = LoopSettings(**BASE, players={"critic": {"name": "adamw"}}, selection={"size": 0, "keep": "last"})
    assert LoopSettings.model_validate(settings.model_dump(mode="json")) == settings
    with pytest.raises(ValidationError):
        settings.lr = 0.2
