"""Recovery on a linear problem with a known effect and a confounder."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from deconfound.core.types import Batch
from deconfound.errors import InputError
from deconfound.functional.moments import Moment, distance_penalty, residual
from deconfound.objectives import Minimax
from deconfound.objectives.minimax import Observation
from deconfound.training import LoopSettings, OptimizerSettings, ScheduleSettings, SelectionSettings, fit

EFFECT, STRENGTH, COUNT = 1.0, 1.0, 4000
BINS = torch.linspace(-9, 9, 37)


class Confounded:
    """T = pi Z + U + N(0, 1/4), Y = effect T + 2 U + N(0, 1/4), all else standard normal; rows (T, Z, Y)."""

    name, shape, class_names = "linear", (3,), ("",)

    def __init__(self, seed=0):
        generator = torch.Generator().manual_seed(seed)
        z, u, noise, error = torch.randn(4, COUNT, generator=generator)
        t = STRENGTH * z + u + 0.5 * noise
        self.rows = torch.stack([t, z, EFFECT * t + 2 * u + 0.5 * error], dim=1)

    def __len__(self):
        return COUNT

    def batches(self, plan, device="cpu"):
        for places in plan:
            rows = self.rows[places]
            yield Batch(rows, (rows[:, 2:] - BINS).abs().argmin(dim=1), places)


def values(batch):
    return Observation(batch.images[:, :1], batch.images[:, 1:2], batch.images[:, 2:])


def classes(batch):
    return values(batch)._replace(outcome=batch.labels)


def as_logits(value):
    """A prediction as the density of a unit normal around it, on the bins."""
    return -0.5 * (BINS - value) ** 2


def line(weight):
    layer = nn.Linear(1, 1, bias=False)
    nn.init.constant_(layer.weight, weight)
    return layer


def estimate(source, read=values, epochs=120, lr=0.3, **settings):
    """The slope that the game ends at, full batches."""
    hypothesis = line(0.0)
    loop = LoopSettings(
        epochs=epochs,
        batch_size=COUNT,
        lr=lr,
        optimizer=OptimizerSettings(momentum=0.0, weight_decay=0.0),
        schedule=ScheduleSettings(name="constant"),
        selection=SelectionSettings(keep="last"),
    )
    fit(Minimax(hypothesis, line(1.0), read, **settings), source, loop)
    return float(hypothesis.weight.detach())


def slopes(source):
    """Least squares of Y on T, and two-stage least squares, in closed form."""
    t, z, y = source.rows.double().T
    return float(t @ y / (t @ t)), float(z @ y / (z @ t))


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_residual_moment_finds_the_effect_where_least_squares_does_not(seed):
    """Two-stage least squares has a standard error of 2.06 / sqrt(4000) = 0.033: 0.1 is 3 of them, 1 in 370 each."""
    source = Confounded(seed)
    biased, closed = slopes(source)
    found = estimate(source)
    assert found == pytest.approx(closed, abs=1e-3)  # the game's own solution
    assert found == pytest.approx(EFFECT, abs=0.1)
    assert biased - EFFECT == pytest.approx(2 / (STRENGTH**2 + 1.25), abs=0.1)  # cov(T, 2U) / var(T) = 0.89


@pytest.mark.parametrize("penalty", [0.5, 1.0])
def test_with_the_penalty_of_the_other_moment_it_misses_by_two_lambda_over_pi(penalty):
    source = Confounded()
    _, closed = slopes(source)
    wrong = Moment("residual", residual, distance_penalty)
    t, z, _ = source.rows.T
    expected = closed + 2 * penalty * float(z @ z) / float(z @ t)
    assert estimate(source, moments=wrong, penalty=penalty, epochs=200) == pytest.approx(expected, abs=0.02)


def test_log_product_does_not_find_the_effect():
    """Measured over three seeds: 1.43 to 1.49 with lambda 1, 2.38 to 2.44 with lambda 10; least squares 1.87 to 1.90.

    It is weighted maximum likelihood of Y given T: nothing in it asks the residual to be independent of Z. These are
    facts about this problem; asserted is only that it is none of the two estimates.
    """
    source = Confounded()
    biased, closed = slopes(source)
    found = estimate(source, classes, moments="log_product", decode=as_logits, lr=0.02, epochs=100)
    assert min(abs(found - biased), abs(found - closed)) > 0.2


def test_a_step_of_g_then_one_of_h_against_the_new_g():
    source = Confounded()
    batch = next(source.batches([torch.arange(COUNT)]))
    h, g = line(0.5), line(1.0)
    objective = Minimax(h, g, values, penalty=2.0)
    t, z, y = batch.images.T
    first = objective.steps(batch, None, None)
    step = next(first)
    assert step.player == "g"
    loss = step.loss()
    torch.testing.assert_close(loss.total.detach(), 2 * (z**2).mean() - ((y - 0.5 * t) * z).mean())
    loss.total.backward()
    assert h.weight.grad is None
    nn.init.constant_(g.weight, 3.0)
    step = next(first)
    assert step.player == "model"
    second = step.loss()
    torch.testing.assert_close(second.total.detach(), ((y - 0.5 * t) * 3 * z).mean())
    g.weight.grad = None
    second.total.backward()
    assert g.weight.grad is None
    assert float(h.weight.grad) == pytest.approx(float(-(t * 3 * z).mean()), rel=1e-4)


def test_without_a_penalty_the_loss_of_g_is_the_moment_alone():
    source = Confounded()
    batch = next(source.batches([torch.arange(COUNT)]))
    t, z, y = batch.images.T
    step = next(Minimax(line(0.5), line(1.0), values, penalty=0).steps(batch, None, None))
    loss = step.loss()
    torch.testing.assert_close(loss.total.detach(), -((y - 0.5 * t) * z).mean())
    torch.testing.assert_close(loss.parts["penalty"], (z**2).mean())


def test_bad_settings():
    with pytest.raises(InputError, match="penalty: got -1"):
        Minimax(line(0), line(1), values, penalty=-1)
    with pytest.raises(InputError, match="moment: got 'nothing'"):
        Minimax(line(0), line(1), values, "nothing")
