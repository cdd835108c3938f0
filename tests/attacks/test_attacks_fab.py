"""FAB against exact distances on linear models, planted boundaries, counts, and the official implementation."""

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
from deconfound.errors import InputError
from deconfound.functional.hyperplanes import move_to_hyperplane
from deconfound.functional.norms import distance

NORMS = ("linf", "l2", "l1")


def linear(classes, seed=0, size=16):
    """Random weights, logits centred over the examples so that several classes are predicted."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Flatten(), nn.Linear(size, classes)).double()
    with torch.no_grad():
        model[1].bias -= model(examples(200, 9)).mean(0)
    return model


def examples(count=40, seed=1, dtype=torch.float64, shape=(1, 4, 4)):
    """Some pixels at the ends of the box, so that it constrains."""
    images = torch.rand(count, *shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)
    images[..., 0] = images[..., 0].round()
    return images


def predictions(model, images):
    with torch.no_grad():
        return model(images).argmax(1)


def exact_distance(model, images, labels, norm):
    """Of the nearest of all decision boundaries in the box, (B,)."""
    with torch.no_grad():
        logits, weight = model(images), model[1].weight
        rows, best = torch.arange(len(labels)), torch.full((len(labels),), torch.inf, dtype=torch.float64)
        for other in range(logits.shape[1]):
            value, normal = logits[:, other] - logits[rows, labels], weight[other] - weight[labels]
            move = move_to_hyperplane(images.flatten(1), normal, value, norm, (0.0, 1.0))
            missed = (value + (move * normal).sum(1)).abs() > 1e-9
            best = torch.minimum(best, distance(move, norm).masked_fill(missed | (labels == other), torch.inf))
    return best


def conv_net(seed=0, classes=10, dtype=torch.float32):
    """Random weights, logits centred over the examples so that several classes are predicted."""
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3, stride=2, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(128, 32), nn.ReLU()
    ).append(nn.Linear(32, classes))
    with torch.no_grad():
        model[-1].bias -= model(examples(200, 9, torch.float32, (1, 8, 8))).mean(0)
    return model.to(dtype).eval()


class Counting(nn.Module):
    """Counts calls and rows of forwards, and those whose images want a gradient."""

    def __init__(self, inner):
        super().__init__()
        self.inner, self.calls, self.rows, self.climbed = inner, 0, 0, 0

    def forward(self, images):
        self.calls, self.rows = self.calls + 1, self.rows + len(images)
        self.climbed += len(images) * images.requires_grad
        return self.inner(images)


@pytest.mark.parametrize(("classes", "targets"), [(2, 0), (2, 9), (3, 2), (10, 9)])
@pytest.mark.parametrize("norm", NORMS)
def test_nearest_is_within_one_percent_of_the_exact_distance(norm, classes, targets):
    model, images = linear(classes), examples()
    labels = predictions(model, images)
    exact = exact_distance(model, images, labels, norm)
    attack = FAB(ThreatModel(norm, 0.0), targets=targets, steps=30)
    found = attack.nearest(model, images, labels)
    assert torch.equal(predictions(model, found) != labels, exact.isfinite())
    ratio = attack.threat.distance(found, images)[exact.isfinite()] / exact[exact.isfinite()]
    assert bool((ratio >= 1 - 1e-9).all())
    assert float(ratio.max()) < 1.01
    plain = FAB(ThreatModel(norm, 0.0), targets=targets, steps=30, final_search=0).nearest(model, images, labels)
    gain = attack.threat.distance(plain, images) - attack.threat.distance(found, images)
    assert bool((gain >= 0).all())
    assert float(gain.mean()) > 0


@pytest.mark.parametrize("targets", [0, 9])
@pytest.mark.parametrize("norm", NORMS)
def test_exactly_the_points_within_reach_fall(norm, targets):
    """K = 2, where FAB converges to the exact distance: all within eps fall, none beyond, none outside the ball."""
    model, images = linear(2), examples(100)
    labels = predictions(model, images)
    exact = exact_distance(model, images, labels, norm)
    threat = ThreatModel(norm, float(exact.sort().values[49:51].mean()))
    found = FAB(threat, targets=targets, steps=30)(model, images, labels)
    fell = predictions(model, found) != labels
    decided = (exact / threat.eps - 1).abs() > 2e-3
    assert torch.equal(fell[decided], (exact <= threat.eps)[decided])
    assert torch.equal(fell, (found != images).flatten(1).any(1))
    assert bool(threat.contains(found, images, 1e-9).all())
    assert decided.sum() >= 95


@pytest.mark.parametrize("targets", [0, 3])
@pytest.mark.parametrize("norm", NORMS)
def test_no_point_is_reported_beyond_its_exact_distance(norm, targets):
    model, images = linear(10), examples(60)
    labels = predictions(model, images)
    exact = exact_distance(model, images, labels, norm)
    threat = ThreatModel(norm, float(exact.median()))
    fell = predictions(model, FAB(threat, targets=targets, steps=20)(model, images, labels)) != labels
    assert not bool(fell[exact > threat.eps * (1 + 1e-9)].any())
    assert 15 <= int(fell.sum()) <= 30


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


@pytest.mark.parametrize("targets", [0, 4])
@pytest.mark.parametrize("norm", NORMS)
def test_as_strong_as_the_official_implementation(norm, targets):
    """Survivors where about half of the points fall; both start at the clean image and draw no random numbers."""
    reference = pytest.importorskip("pyautoattack.fab_pt").FABAttack_PT
    model, images = conv_net(seed=3, classes=5), examples(64, 2, torch.float32, (1, 8, 8))
    labels, name = predictions(model, images), {"linf": "Linf", "l2": "L2", "l1": "L1"}[norm]
    attack = FAB(ThreatModel(norm, 0.0), targets=targets, steps=30)
    eps = float(attack.threat.distance(attack.nearest(model, images, labels), images).median()) * 1.01
    attack = attack.at(ThreatModel(norm, eps))
    official = reference(model, norm=name, n_iter=30, eps=eps, targeted=targets > 0, n_target_classes=4, device="cpu")
    survive = predictions(model, official.perturb(images, labels)) == labels
    stand = predictions(model, attack(model, images, labels)) == labels
    assert 20 <= int(survive.sum()) <= 44
    assert int(stand.sum()) <= int(survive.sum()) + 1
    assert int((stand & ~survive).sum()) <= 2


class Shifted(nn.Module):
    """Another logit for one class: its boundary lies farther out."""

    def __init__(self, inner, gap):
        super().__init__()
        self.inner, self.gap = inner, gap

    def forward(self, images):
        return self.inner(images) + torch.tensor([self.gap, 0.0], dtype=images.dtype)


@pytest.mark.parametrize("norm", NORMS)
def test_a_judge_with_a_farther_boundary_decides_and_is_reached_by_the_last_try(norm):
    model, images = linear(2), examples(120)
    images = images[predictions(model, images) == 0]
    labels = torch.zeros(len(images), dtype=torch.int64)
    exact = exact_distance(model, images, labels, norm)
    with torch.no_grad():
        gap = 0.2 * float((model(images)[:, 0] - model(images)[:, 1]).median())
    judge, same = Counting(Shifted(model, gap)), linear(2)
    with torch.no_grad():
        same[1].bias[0] += gap
    reachable = exact_distance(same, images, labels, norm)
    threat = ThreatModel(norm, float(exact.median()))
    found = FAB(threat, targets=1, steps=20)(model, images, labels, judge=judge)
    fell, wanted = predictions(judge.inner, found) != labels, reachable <= threat.eps
    assert not bool((fell & ~wanted).any())
    # What the judge has refused is pushed outwards along its own ray: in L1 that need not be the shortest way on.
    assert int(fell.sum()) >= 0.7 * int(wanted.sum()) >= 8
    beyond = int(((exact <= threat.eps) & ~wanted).sum())
    assert beyond >= 3
    assert judge.rows < 3 * len(images) + 20 * beyond  # clean images, suspects, last try: not every step of every row


def test_the_closest_image_is_one_for_the_judge():
    """The final search of the surrogate's boundary tries images that this judge refuses."""
    model, images = linear(2), examples(120)
    images = images[predictions(model, images) == 0]
    labels = torch.zeros(len(images), dtype=torch.int64)
    judge = Shifted(model, 0.004)
    found = FAB(ThreatModel("l2", 0.1), targets=1, steps=20).nearest(model, images, labels, judge=judge)
    changed = (found != images).flatten(1).any(1)
    assert bool((predictions(judge, found)[changed] == 1).all())
    assert int(changed.sum()) > 10


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


def test_nearest_of_what_is_wrong_already_or_unbreakable_is_the_clean_image():
    model, images = linear(3), examples()
    labels = predictions(model, images)
    labels[:7] = (labels[:7] + 1) % 3
    attack = FAB(ThreatModel("linf", 0.1), targets=2, steps=5)
    found = attack.nearest(model, images, labels)
    assert torch.equal(found[:7], images[:7])
    assert bool((found[7:] != images[7:]).flatten(1).any(1).all())
    other = attack.at(ThreatModel("linf", 0.0)).nearest(model, images, labels)
    assert torch.equal(other, found)  # the radius matters to restarts alone
    certain = nn.Sequential(nn.Flatten(), nn.Linear(16, 2)).double()
    with torch.no_grad():
        certain[1].bias.copy_(torch.tensor([1e3, 0.0]))
    assert torch.equal(attack.nearest(certain, images, torch.zeros(40, dtype=torch.int64)), images)


def test_nearest_over_restarts_keeps_the_closest():
    model, images = conv_net(dtype=torch.float64), examples(20, 2, shape=(1, 8, 8))
    labels, threat = predictions(model, images), ThreatModel("l2", 0.5)
    once, thrice = (FAB(threat, steps=6, restarts=n, final_search=0) for n in (1, 3))
    first, best = (threat.distance(a.nearest(model, images, labels), images) for a in (once, thrice))
    assert bool((best <= first + 1e-12).all())
    assert bool((best < first - 1e-9).any())


def test_a_given_target_is_the_only_one_and_may_not_be_the_label():
    model, images = linear(5), examples(20)
    labels = predictions(model, images)
    target = (labels + 2) % 5
    attack = FAB(ThreatModel("l2", 5.0), targets=9, steps=20)
    counted = Counting(model)
    FAB(ThreatModel("l2", 1e-6), targets=9, steps=3)(counted, images, labels, context={"target": target})
    assert counted.climbed == 20 * 3
    found = attack(model, images, labels, context={"target": target})
    assert int((predictions(model, found) != labels).sum()) == 20
    with pytest.raises(InputError, match="target"):
        attack(model, images, labels, context={"target": labels})
    untargeted = FAB(ThreatModel("l2", 5.0), steps=5)
    expected = untargeted(model, images, labels)
    assert torch.equal(untargeted(model, images, labels, context={"target": target}), expected)


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

    examiner = Examiner(model, judge)
    with examiner.listening() as surrogate:
        hunt = Hunt(Points.of(images, labels, None, None), examiner)
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


@pytest.mark.parametrize(
    "wrong",
    [
        {"steps": 0},
        {"restarts": 0},
        {"targets": -1},
        {"targets": True},
        {"final_search": -1},
        {"draws": 0},
        {"rows": 0},
        {"alpha_max": 1.5},
        {"alpha_max": float("nan")},
        {"eta": 0.5},
        {"beta": 0.0},
        {"beta": 1.2},
    ],
)
def test_settings_outside_their_range_are_named(wrong):
    with pytest.raises(InputError, match=f"^{next(iter(wrong))}:"):
        FAB(ThreatModel(), **wrong)
    with pytest.raises(InputError, match=r"^threat:"):
        FAB("linf")


def test_names_and_settings():
    attack = FAB(ThreatModel("l1", 12), targets=9, restarts=5, draws=3, steps=20)
    assert attack.name == "fab-t-20x9x5-eot3"
    assert attack.at(ThreatModel("l2", 1)).threat == ThreatModel("l2", 1)
    settings = attack.settings()
    assert (settings["kind"], settings["targets"], settings["alpha_max"], settings["eta"]) == ("fab", 9, 0.1, 1.05)
