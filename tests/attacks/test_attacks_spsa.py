"""SPSA: its gradient estimate in closed form, its steps, its queries."""

from __future__ import annotations

import math
from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from deconfound.attacks.losses import margin
from deconfound.attacks.points import Points
from deconfound.attacks.spsa import SPSA, Adam, directions, estimate
from deconfound.core.streams import Streams
from deconfound.core.threat import ThreatModel
from deconfound.errors import InputError

EPS = {"linf": 0.1, "l2": 0.5, "l1": 2.0}
norms = pytest.mark.parametrize("norm", list(EPS))


def points(count, shape=(1, 2, 2), seed=0):
    images = torch.rand(count, *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return Points.of(images, torch.zeros(count, dtype=torch.int64), Streams(seed, range(count)), None)


def linear_loss(weight):
    return lambda model, images, labels, context: images.flatten(1) @ weight


def net(classes=4, channels=2):
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(channels, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(4 * 16, classes)).double()


def batch(count, channels=2):
    return torch.rand(count, channels, 6, 6, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def standing(model, images):
    with torch.no_grad():
        return model(images).argmax(1)


def test_over_all_directions_the_estimate_of_a_linear_loss_is_its_gradient():
    weight, few = torch.tensor([1.0, -2.0, 0.5, 3.0], dtype=torch.float64), points(3)
    every = [
        torch.tensor(v, dtype=torch.float64).view(1, 1, 2, 2).repeat(3, 1, 1, 1) for v in product((-1, 1), repeat=4)
    ]
    found = estimate(linear_loss(weight), None, few.images, few, iter(every), 16, delta=0.3)
    torch.testing.assert_close(found, weight.view(1, 1, 2, 2).expand(3, -1, -1, -1), rtol=0, atol=1e-12)


def test_one_pair_is_the_formula():
    loss = lambda model, images, labels, context: images.flatten(1).pow(3).sum(1)  # noqa: E731
    few = points(5)
    (v,) = directions(few, 1, few.streams)
    x, delta = few.images, 0.2
    slope = (loss(None, x + delta * v, None, None) - loss(None, x - delta * v, None, None)) / (2 * delta)
    found = estimate(loss, None, x, few, directions(few, 1, few.streams), 1, delta=delta)
    torch.testing.assert_close(found, slope.view(-1, 1, 1, 1) * v)


def test_the_attacks_own_directions_give_an_unbiased_estimate():
    """4000 examples x 5 pairs of <w, v> v: each element has mean w_i and variance |w|^2 - w_i^2.

    Four elements beyond 5 standard errors: 4 x 5.7e-7 of errors.
    """
    weight, many = torch.tensor([1.0, -2.0, 0.5, 3.0], dtype=torch.float64), points(4000)
    found = estimate(linear_loss(weight), None, many.images, many, directions(many, 5, many.streams), 5).flatten(1)
    error = ((weight.square().sum() - weight.square()) / 20_000).sqrt()
    assert ((found.mean(0) - weight).abs() < 5 * error).all(), (found.mean(0), error)
    assert (found.var(0) > 0.8 * 4000 * error**2).all()


def test_directions_are_fair_signs_independent_of_each_other():
    many = points(5000)
    first, second = directions(many, 2, many.streams)
    assert set(first.unique().tolist()) == {-1.0, 1.0}
    flat = torch.cat([first.flatten(1), second.flatten(1)], dim=1)
    assert float(flat.mean(0).abs().max()) < 5 / math.sqrt(5000)
    moments = flat.T @ flat / 5000 - torch.eye(8)
    assert float(moments.abs().max()) < 5 / math.sqrt(5000)


@given(batch_size=st.integers(2, 60))
@settings(max_examples=15, deadline=None)
def test_memory_is_bounded_and_chunks_change_nothing(batch_size):
    model, few, sizes = net(), points(3, (2, 6, 6)), []

    def watched(images):
        sizes.append(len(images))
        return model(images)

    whole = estimate(margin, model, few.images, few, directions(few, 9, few.streams), 9)
    found = estimate(margin, watched, few.images, few, directions(few, 9, few.streams), 9, batch_size=batch_size)
    torch.testing.assert_close(found, whole, rtol=1e-9, atol=1e-12)
    assert sum(sizes) == 2 * 9 * 3
    assert max(sizes) <= max(batch_size, 6)


def test_a_difference_that_is_not_finite_counts_as_zero():
    loss = lambda model, images, labels, context: images.flatten(1)[:, 0] / 0  # noqa: E731
    few = points(2)
    assert (estimate(loss, None, few.images, few, directions(few, 3, few.streams), 3) == 0).all()


def test_adam_is_torchs():
    torch.manual_seed(0)
    gradients, parameter = torch.randn(6, 3, 4).double(), torch.zeros(3, 4).double().requires_grad_()
    optimiser = torch.optim.Adam([parameter], lr=0.1)
    ours, adam = torch.zeros(3, 4).double(), Adam(torch.zeros(3, 4).double(), torch.zeros(3, 4).double())
    for gradient in gradients:
        parameter.grad = gradient.clone()
        optimiser.step()
        ours -= 0.1 * adam.direction(gradient)
        torch.testing.assert_close(ours, parameter.detach())


@norms
def test_spsa_never_exceeds_the_worst_case_of_a_linear_classifier_and_comes_near(norm):
    """The share of the possible gain in 25 steps of a tenth of eps, which Adam's last steps still wander by."""
    torch.manual_seed(0)
    layer = nn.Linear(16, 2).double()
    difference = (layer.weight[1] - layer.weight[0]).detach()
    eps = {"linf": 0.1, "l2": 0.3, "l1": 0.35}[norm]
    images = 0.4 + 0.2 * torch.rand(12, 1, 4, 4, dtype=torch.float64)
    gain = eps * torch.linalg.vector_norm(difference, {"linf": 1, "l2": 2, "l1": torch.inf}[norm])
    labels, seen = torch.zeros(12, dtype=torch.int64), []
    with torch.no_grad():
        layer.bias[1] -= margin(layer, images.flatten(1), labels, {}).amax() + 1.5 * gain

    def watched(x):
        z = layer(x.flatten(1))
        if len(x) == 12:
            seen.append((x.flatten(1) - images.flatten(1)) @ difference)
        return z

    attack = SPSA(ThreatModel(norm, eps), steps=25, pairs=40)
    assert torch.equal(attack(watched, images, labels), images)
    reached = torch.stack(seen[1:])
    assert len(reached) == 26
    assert bool((reached <= gain * (1 + 1e-9)).all())
    least = {"linf": 0.85, "l2": 0.75, "l1": 0.5}[norm]
    assert float(reached.amax(0).amin() / gain) > least, reached.amax(0) / gain


@norms
def test_every_iterate_is_inside_and_queries_are_counted_as_declared(norm):
    images, threat, rows = batch(7).float(), ThreatModel(norm, EPS[norm]), []
    images[:, :, :2] = images[:, :, :2].round()

    def unmoved(x):
        if len(x) == 7:
            assert threat.contains(x, images).all()
        rows.append(len(x))
        return torch.stack([1 + x.sum((1, 2, 3)).abs(), x[:, 0, 0, 0] * 0], dim=1)

    attack = SPSA(threat, steps=3, pairs=5, restarts=2)
    assert torch.equal(attack(unmoved, images, torch.zeros(7, dtype=torch.int64)), images)
    assert sum(rows) == 7 * (1 + 2 * (2 * 5 * 3 + 3 + 1))


@norms
@given(order=st.permutations(range(9)), size=st.integers(1, 9))
@settings(max_examples=4, deadline=None)
def test_results_do_not_depend_on_the_batch(norm, order, size):
    model, images = net(), batch(9)
    labels, index, order = standing(model, images), torch.arange(9) * 3, torch.tensor(order)
    attack = SPSA(ThreatModel(norm, EPS[norm]), steps=4, pairs=5, batch_size=40)
    whole = attack(model, images, labels, Streams(1, index))
    parts = [attack(model, images[p], labels[p], Streams(1, index[p])) for p in order.split(size)]
    again = torch.empty_like(whole)
    again[order] = torch.cat(parts)
    torch.testing.assert_close(again, whole, rtol=0, atol=1e-9)
    assert (whole != images).any()


@norms
def test_found_examples_are_adversarial_for_the_judge_and_inside(norm):
    model, images = net(), batch(30)
    labels = standing(model, images)
    labels[:3] = (labels[:3] + 1) % 4
    found = SPSA(ThreatModel(norm, EPS[norm] / 2), steps=6, pairs=10)(
        lambda x: model(x).bfloat16(), images, labels, judge=model
    )
    changed = (found != images).flatten(1).any(1)
    assert not changed[:3].any()
    assert torch.equal((standing(model, found) != labels)[3:], changed[3:])
    assert ThreatModel(norm, EPS[norm] / 2).contains(found, images).all()
    assert changed.any()


def test_losses_are_averaged_over_draws_of_a_random_model_alike_on_both_sides():
    """Additive noise of one draw cancels in a pair, so the estimate is that without noise."""

    class Random:
        def __call__(self, images):
            raise AssertionError("a stochastic model is asked for draws")

        def draw(self, images, streams, draws):
            self.calls = getattr(self, "calls", 0) + 1
            score = images.sum((1, 2, 3)) + streams.uniform((draws,), torch.float64).T
            return torch.stack([torch.zeros_like(score), score], dim=2)

    random, few = Random(), points(4)
    noisy = estimate(margin, random, few.images, few, directions(few, 6, few.streams), 6, draws=3)
    plain = estimate(linear_loss(torch.ones(4).double()), None, few.images, few, directions(few, 6, few.streams), 6)
    torch.testing.assert_close(noisy, plain, rtol=0, atol=1e-12)
    assert random.calls == 3


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("steps", 0),
        ("pairs", 0),
        ("delta", 0),
        ("step_size", 0),
        ("step_size", 2),
        ("loss", "margin"),
        ("restarts", 0),
        ("draws", 0),
        ("batch_size", 1),
    ],
)
def test_settings_outside_their_range_are_refused(field, value):
    with pytest.raises(InputError, match=field):
        SPSA(ThreatModel(), **{field: value})


def test_settings_describe_and_at_moves_the_default_step():
    attack = SPSA(ThreatModel("linf", 0.1), steps=10, restarts=3)
    assert attack.name == "spsa-10x3"
    moved = attack.at(ThreatModel("l2", 0.2))
    assert moved.settings() == attack.settings() | {"norm": "l2", "eps": 0.2, "step_size": moved.step}
    assert moved.step == pytest.approx(2 * attack.step)
    assert SPSA(ThreatModel("linf", 0.1), step_size="1/255").step == 1 / 255
