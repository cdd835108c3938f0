"""FAB against exact distances on linear models, judges of their own, and the official implementation."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from deconfound.attacks.fab import FAB
from deconfound.core.threat import ThreatModel
from deconfound.errors import InputError
from deconfound.functional.hyperplanes import move_to_hyperplane
from deconfound.functional.norms import distance
from fab_cases import NORMS, Counting, conv_net, examples, linear, predictions


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
