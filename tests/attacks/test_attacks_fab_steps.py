"""The steps of FAB: what they cost, restarts, planted boundaries, random and broken models."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from deconfound.attacks.boundary import boundary
from deconfound.attacks.fab import FAB
from deconfound.attacks.harness import Hunt
from deconfound.attacks.judging import Examiner
from deconfound.attacks.points import Points
from deconfound.core.streams import Streams
from deconfound.core.threat import ThreatModel
from fab_cases import NORMS, Counting, conv_net, examples, linear, predictions


@pytest.mark.parametrize(("targets", "per_step"), [(0, 1), (3, 3), (9, 4)])
def test_a_survivor_costs_one_forward_with_gradient_for_each_step_and_target(targets, per_step):
    model, images = Counting(conv_net(classes=5)), examples(6, 2, torch.float32, (1, 8, 8))
    labels = predictions(model.inner, images)
    FAB(ThreatModel("linf", 1e-6), targets=targets, steps=25)(model, images, labels)
    extra = 2 * per_step + 1 + bool(targets)  # last iterate and projection of every row; clean images, ranking
    assert model.climbed == 6 * 25 * per_step
    assert model.rows == model.climbed + 6 * extra
    assert model.calls == 25 + 3 + bool(targets)


def test_untargeted_takes_a_backward_for_each_other_class():
    model, images = conv_net(classes=5), examples(6, 2, torch.float32, (1, 8, 8))
    backwards = []
    model[0].register_full_backward_hook(lambda *_: backwards.append(1))
    FAB(ThreatModel("linf", 1e-6), steps=7)(model, images, predictions(model, images))
    assert len(backwards) == 7 * 4


def test_points_leave_when_they_fall():
    model, images = Counting(conv_net()), examples(64, 2, torch.float32, (1, 8, 8))
    labels = predictions(model.inner, images)
    FAB(ThreatModel("linf", 0.5), targets=9, steps=40)(model, images, labels)
    assert model.rows < 64 * 9 * 6


@pytest.mark.parametrize("targets", [0, 9])
@pytest.mark.parametrize("norm", NORMS)
def test_neither_batches_nor_rows_change_a_float64_result(norm, targets):
    model, images = conv_net(dtype=torch.float64), examples(13, 2, shape=(1, 8, 8))
    labels, index = predictions(model, images), torch.arange(13) * 7
    threat = ThreatModel(norm, {"linf": 0.02, "l2": 0.1, "l1": 0.4}[norm])
    attack = FAB(threat, targets=targets, steps=8, restarts=2)
    whole = attack(model, images, labels, Streams(3, index))
    few = FAB(threat, targets=targets, steps=8, restarts=2, rows=1)(model, images, labels, Streams(3, index))
    order = torch.randperm(13, generator=torch.Generator().manual_seed(0))
    parts = [attack(model, images[p], labels[p], Streams(3, index[p])) for p in order.split(5)]
    again = torch.empty_like(whole)
    again[order] = torch.cat(parts)
    for other in (few, again):
        torch.testing.assert_close(other, whole, rtol=0, atol=1e-9)
    assert 0 < int((whole != images).flatten(1).any(1).sum()) < 13


def test_restarts_leave_the_flat_place_where_the_first_climb_is_stuck():
    """No gradient within 0.02 of the clean images."""
    inner, images = linear(2), examples(20)
    labels = predictions(inner, images)

    def flat(candidates):
        still = (candidates - images[: len(candidates)]).abs().flatten(1).amax(1) < 0.02
        return torch.where(still[:, None], inner(candidates).detach(), inner(candidates))

    threat = ThreatModel("linf", 0.9)
    stuck = FAB(threat, steps=5)(flat, images, labels)
    assert torch.equal(stuck, images)
    moved = FAB(threat, steps=5, restarts=2)(flat, images, labels)
    assert int((moved != images).flatten(1).any(1).sum()) >= 15


@pytest.mark.parametrize("norm", NORMS)
def test_restarts_begin_at_half_the_radius(norm):
    seen = []

    def watching(candidates):
        seen.append(candidates.detach().clone())
        return candidates.flatten(1)[:, :2] * 0 + torch.tensor([1.0, 0.0], dtype=candidates.dtype)

    images = torch.full((4, 1, 4, 4), 0.5, dtype=torch.float64)
    threat = ThreatModel(norm, 0.4)
    FAB(threat, steps=1, restarts=3)(watching, images, torch.zeros(4, dtype=torch.int64))
    away = [threat.distance(each, images) for each in seen]
    starts = [each for each in away if bool((each - 0.2).abs().max() < 1e-9)]
    assert len(starts) == 2
    assert bool((away[0] == 0).all())


@pytest.mark.parametrize("targets", [0, 1])
@pytest.mark.parametrize("norm", NORMS)
def test_nan_infinite_and_missing_gradients_harm_nothing(norm, targets):
    class Poisoned(nn.Module):
        def forward(self, images):
            pixel = images.flatten(1)
            bad = torch.where(pixel[:, 0] > 0.5, torch.nan, torch.where(pixel[:, 1] > 0.5, torch.inf, 1.0))
            return torch.stack([bad * (1 + pixel.sum(1)), pixel[:, 2].sqrt() - 0.5], dim=1)

    images, threat = examples(), ThreatModel(norm, 0.4)
    labels = torch.zeros(40, dtype=torch.int64)
    silent = images[:, 0, 0, 0] > 0.5
    attack = FAB(threat, targets=targets, steps=6, restarts=2)
    found = attack(Poisoned(), images, labels)
    assert bool(threat.contains(found, images).all())
    assert torch.equal(found[silent], images[silent])
    assert bool(attack.nearest(Poisoned(), images, labels).isfinite().all())

    def without(candidates):
        with torch.no_grad():
            return torch.stack([candidates.mean((1, 2, 3)), candidates.mean((1, 2, 3)) - 1], dim=1)

    assert torch.equal(attack(without, images, labels), images)


class Noisy:
    """Adds to the logits a number drawn from the streams."""

    def __init__(self, inner):
        self.inner, self.asked = inner, []

    def draw(self, images, streams, draws):
        self.asked.append(draws)
        noise = torch.stack([streams.fold("d", d).normal((2,), images.dtype) for d in range(draws)])
        return self.inner(images) + 0.3 * noise


@pytest.mark.parametrize("targets", [0, 1])
def test_gradients_are_means_over_the_draws_of_a_random_model(targets):
    inner, images = linear(2), examples(6)
    points = Points.of(images, predictions(inner, images), None, {"target": 1 - predictions(inner, images)})
    leaf = images.clone().requires_grad_()
    clean, slope = boundary(inner, leaf, points, "l2", bool(targets), 0.9, 1)
    value, gradient = boundary(Noisy(inner), leaf, points, "l2", bool(targets), 0.9, 400, "s")
    torch.testing.assert_close(gradient, slope, rtol=0, atol=1e-9)
    assert 0 < float((value - clean).abs().max()) < 0.1
    model = Noisy(inner)
    found = FAB(ThreatModel("l2", 1.0), targets=targets, steps=3, draws=4)(model, images, points.labels)
    assert ThreatModel("l2", 1.0).contains(found, images).all()


def test_untargeted_goes_to_the_boundary_that_is_nearest_in_the_norm():
    """Class 1 needs 0.2 of one pixel, class 2 only 0.15 of each of two."""
    weight = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.8, 0.8]], dtype=torch.float64)

    def model(images):
        return images.flatten(1) @ weight.T + torch.tensor([0.7, 0.0, 0.06], dtype=torch.float64) - 0.0

    images = torch.tensor([0.5, 0.0], dtype=torch.float64).view(1, 1, 1, 2)
    points = Points.of(images, torch.zeros(1, dtype=torch.int64), None, None)
    for norm, nearest in (("linf", 2), ("l1", 1)):
        _, gradient = boundary(model, images.clone().requires_grad_(), points, norm, False, 0.9, 1)
        torch.testing.assert_close(gradient.flatten(), weight[nearest])


def test_untargeted_looks_for_the_nearest_boundary_from_where_an_adversarial_iterate_goes_back_to():
    """Boundaries at 0.89 and 0.6: the first is nearer to 0.9, the second to 0.1 + 0.5 (0.9 - 0.1) = 0.5."""

    def model(images):
        pixel = images.flatten(1)[:, 0]
        return torch.stack([0 * pixel, pixel - 0.89, 20 * (pixel - 0.6)], dim=1)

    images = torch.full((1, 1, 1, 1), 0.1, dtype=torch.float64)
    points = Points.of(images, torch.zeros(1, dtype=torch.int64), None, None)
    leaf = torch.full_like(images, 0.9).requires_grad_()
    _, near = boundary(model, leaf, points, "l2", False, 1.0, 1)
    assert float(near) == 1.0
    _, back = boundary(model, leaf, points, "l2", False, 0.5, 1)
    assert float(back) == 20.0


def test_a_hunt_hears_confirms_and_drops_on_the_word_of_the_attack():
    model, images = Counting(linear(2)), examples(8)
    labels = predictions(model.inner, images)
    asked = []

    def judge(candidates, labels, streams):
        asked.append(len(candidates))
        return candidates[:, 0, 0, 1] > 0.5

    points = Points.of(images, labels, None, None)
    examiner = Examiner(model, judge, points)
    with examiner.listening() as surrogate:
        hunt = Hunt(points, examiner)
        candidates = images.clone()
        candidates[:, 0, 0, 1] = torch.arange(8) % 2
        surrogate(candidates)
        hunt.heard(candidates)
        assert model.calls == 1  # heard, not asked again
        suspects = torch.tensor([True, True, True, True, False, False, False, False])
        rows = hunt.confirmed(candidates, suspects)
        assert (rows.tolist(), asked) == ([1, 3], [4])
        assert hunt.confirmed(candidates, suspects & False).tolist() == []
        assert asked == [4]
        assert hunt.drop(candidates, rows[:0]) is None
        assert hunt.drop(candidates, rows).tolist() == [0, 2, 4, 5, 6, 7]
        assert torch.equal(hunt.images[[1, 3]], candidates[[1, 3]])
        assert torch.equal(hunt.images[[0, 2]], images[[0, 2]])
        assert hunt.points.place.tolist() == [0, 2, 4, 5, 6, 7]
