"""Minimum-norm attacks: exact distances on linear models inside the box, and what they owe and cost on networks."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from torch import nn

from deconfound.attacks.cw_l2 import CWL2
from deconfound.attacks.ddn import DDN
from deconfound.attacks.deepfool import DeepFool
from deconfound.attacks.fmn import FMN
from deconfound.attacks.linearised import to_boundary
from deconfound.attacks.losses import margin
from deconfound.core.guards import evaluating
from deconfound.core.streams import Streams
from deconfound.core.threat import ThreatModel
from deconfound.errors import InputError
from deconfound.functional.predictions import predicted
from toys import ball

MEMBERS = {
    "cw-l2": (CWL2, "l2", {"steps": 40, "searches": 6}),
    "deepfool-l2": (DeepFool, "l2", {}),
    "deepfool-linf": (DeepFool, "linf", {}),
    "ddn": (DDN, "l2", {}),
    "fmn-linf": (FMN, "linf", {}),
    "fmn-l2": (FMN, "l2", {}),
    "fmn-l1": (FMN, "l1", {}),
}
FEWER = {"cw-l2": {"steps": 12, "searches": 5}, "deepfool-l2": {}, "deepfool-linf": {}}  # where nearness is no matter
EPS = {"linf": 0.05, "l2": 0.35, "l1": 0.9}
every_member = pytest.mark.parametrize("member", list(MEMBERS))


def build(member, eps=None, **settings):
    kind, norm, own = MEMBERS[member]
    return kind(ball(norm, EPS[norm] if eps is None else eps), **own | settings)


# --- the oracle -------------------------------------------------------------------------------------------------------


def moved(slope, room, t, norm):
    """The move 0 <= m <= room that gains most for its size: the larger t, the larger it is. Rows apart."""
    if norm == "linf":
        return torch.minimum(t[:, None], room)
    if norm == "l2":
        return torch.minimum(t[:, None] * slope, room)
    order = slope.argsort(1, descending=True)
    ordered = room.gather(1, order)
    taken = (t[:, None] - ordered.cumsum(1) + ordered).clamp_min(0).minimum(ordered)
    return torch.zeros_like(room).scatter(1, order, taken)


def exact_distance(model, images, labels, norm):
    """The distance of the nearest other class of a linear model inside the unit box, by bisection."""
    weight, logits, flat = model[1].weight.detach(), model(images).detach(), images.flatten(1)
    nearest = torch.full((len(images),), torch.inf, dtype=torch.float64)
    for k in range(len(weight)):
        difference = weight[k] - weight[labels]
        gap = logits.gather(1, labels[:, None]).squeeze(1) - logits[:, k]
        slope, room = difference.abs(), torch.where(difference > 0, 1 - flat, flat)
        low, high = torch.zeros_like(gap), torch.full_like(gap, 1e3)
        for _ in range(55):
            t = (low + high) / 2
            reached = (slope * moved(slope, room, t, norm)).sum(1) >= gap
            low, high = torch.where(reached, low, t), torch.where(reached, t, high)
        size = torch.linalg.vector_norm(moved(slope, room, high, norm), {"linf": torch.inf, "l2": 2, "l1": 1}[norm], 1)
        possible = ((slope * room).sum(1) >= gap) & (labels != k)
        nearest = torch.minimum(nearest, torch.where(possible, size, torch.inf))
    return nearest


@pytest.mark.parametrize("norm", list(EPS))
def test_the_oracle_is_never_beaten(norm):
    """Two hundred random images at most as far as the exact distance: none changes the prediction."""
    model, images, labels = linear(3)
    exact, threat = exact_distance(model, images, labels, norm), ball(norm, 100)
    generator = torch.Generator().manual_seed(4)
    for _ in range(200):
        way = torch.randn(images.shape, generator=generator, dtype=torch.float64) + 2 * toward(model, labels, generator)
        far = (images + way.sign() * way.abs().pow({"linf": 0, "l2": 1, "l1": 9}[norm])).clamp(0, 1)
        share = (exact / threat.distance(far, images)).clamp_max(1) * (1 - 1e-9)
        tried = images + share.view(-1, 1, 1, 1) * (far - images)
        assert not wrong(model, tried, labels).any()


def toward(model, labels, generator):
    """A gradient towards a random class."""
    weight = model[1].weight.detach()
    other = torch.randint(0, len(weight), labels.shape, generator=generator)
    difference = weight[other] - weight[labels]
    return (difference / difference.norm(dim=1, keepdim=True).clamp_min(1e-9) * 4).view(-1, 1, 4, weight.shape[1] // 4)


@cache
def linear(classes, size=16, count=16, seed=0, dtype=torch.float64):
    """A linear model, and images of which three tenths of the pixels lie at an end of the box."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Flatten(), nn.Linear(size, classes)).double()
    images = torch.rand(count, 1, 4, size // 4, dtype=torch.float64)
    images = torch.where(torch.rand_like(images) < 0.3, images.round(), images)
    with torch.no_grad():
        return model.to(dtype), images.to(dtype), model.double()(images).argmax(1)


def wrong(model, images, labels):
    with torch.no_grad(), evaluating(model):
        return predicted(model(images)) != labels


# --- linear models ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("classes", "size"), [(2, 16), (3, 16), (10, 16), (10, 100)])
@every_member
def test_nearest_comes_within_a_hundredth_of_the_exact_distance_in_the_box(member, classes, size):
    attack, (model, images, labels) = build(member), linear(classes, size)
    exact = exact_distance(model, images, labels, attack.threat.norm)
    found = attack.nearest(model, images, labels)
    assert torch.isfinite(exact).all()
    assert wrong(model, found, labels).all()
    assert ((found >= 0) & (found <= 1)).all()
    ratio = attack.threat.distance(found, images) / exact
    assert float(ratio.min()) > 1 - 1e-6
    assert float(ratio.max()) < 1.01
    touched = ((found == 0) | (found == 1)) & (found != images)
    assert touched.any() or size == 100 or member == "cw-l2"


@pytest.mark.parametrize("member", ["ddn", "fmn-linf", "fmn-l2", "fmn-l1"])
def test_from_the_clean_image_two_classes_are_as_near(member):
    attack, (model, images, labels) = build(member, start="clean"), linear(2)
    found = attack.nearest(model, images, labels)
    ratio = attack.threat.distance(found, images) / exact_distance(model, images, labels, attack.threat.norm)
    assert wrong(model, found, labels).all()
    assert float(ratio.max()) < 1.01


def test_cw_from_the_clean_image_is_as_near_where_no_pixel_lies_at_an_end_of_the_box():
    """From an end, tanh has no gradient: thousands of steps go by until such a pixel moves."""
    model, images, _ = linear(2)
    images = 0.3 + 0.4 * images
    labels = model(images).argmax(1)
    found = build("cw-l2", start="clean", steps=150, searches=9, step_size=0.1).nearest(model, images, labels)
    ratio = (found - images).flatten(1).norm(dim=1) / exact_distance(model, images, labels, "l2")
    assert wrong(model, found, labels).all()
    assert float(ratio.max()) < 1.01


@pytest.mark.parametrize("classes", [2, 10])
@every_member
def test_the_ordinary_attack_breaks_what_can_be_broken_and_nothing_else(member, classes):
    attack, (model, images, labels) = build(member), linear(classes, count=60)
    exact = exact_distance(model, images, labels, attack.threat.norm)
    attack = attack.at(attack.threat.with_eps(float(exact.median())))
    found = attack(model, images, labels)
    broken = wrong(model, found, labels)
    assert torch.equal(broken, (found != images).flatten(1).any(1))
    assert (attack.threat.distance(found, images)[broken] <= attack.threat.eps).all()
    assert not broken[exact > attack.threat.eps].any()
    assert broken[exact < 0.99 * attack.threat.eps].all()
    assert 0 < int(broken.sum()) < 60


@every_member
def test_a_radius_that_no_point_can_be_broken_in_changes_nothing(member):
    attack, (model, images, labels) = build(member), linear(3)
    exact = exact_distance(model, images, labels, attack.threat.norm)
    small = attack.at(attack.threat.with_eps(0.999 * float(exact.min())))
    assert torch.equal(small(model, images, labels), images)
    nothing = attack.at(attack.threat.with_eps(0))
    assert torch.equal(nothing(None, images, labels), images)
    torch.testing.assert_close(nothing.nearest(model, images, labels), attack.nearest(model, images, labels))


@pytest.mark.parametrize("norm", list(EPS))
def test_the_class_is_chosen_by_the_distance_inside_the_box(norm):
    """The first class is nearer, but its way is blocked: the black pixel would have to become darker."""
    image = torch.tensor([0.0, 0.5]).double().view(1, 1, 1, 2)
    gaps, slopes = torch.tensor([[-0.1, -0.2]]).double(), torch.tensor([[-1, 0.3], [0, 1]]).double().view(1, 2, 1, 1, 2)
    moved = to_boundary(image, gaps, slopes, ThreatModel(norm, 1))
    torch.testing.assert_close(moved.flatten(), torch.tensor([0.0, 0.7]).double(), rtol=0, atol=1e-6)


# --- networks ---------------------------------------------------------------------------------------------------------


def small_net(classes=4, seed=0):
    torch.manual_seed(seed)
    layers = [nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Tanh(), nn.Dropout(0.3), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(100, classes)).double()


def examples(count=20, spoilt=4):
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(count, 2, 5, 5, generator=generator, dtype=torch.float64)
    with torch.no_grad(), evaluating(model := small_net()):
        labels = model(images).argmax(1)
    labels[:spoilt] = (labels[:spoilt] + 1) % 4
    return images, labels


@pytest.mark.parametrize("way", ["__call__", "nearest"])
@every_member
def test_float64_results_do_not_depend_on_batch_size_or_order(member, way):
    model, (images, labels) = small_net(), examples()
    attack, index = build(member, **FEWER.get(member, {"steps": 25})), torch.arange(20) * 3 + 5
    run = getattr(attack, way)
    whole = run(model, images, labels, Streams(3, index))
    order = torch.randperm(20, generator=torch.Generator().manual_seed(7))
    again = torch.empty_like(whole)
    for part in order.split(7):
        again[part] = run(model, images[part], labels[part], Streams(3, index[part]))
    torch.testing.assert_close(again, whole, rtol=0, atol=1e-9)
    moved = (whole != images).flatten(1).any(1)
    assert torch.equal(moved[4:], wrong(model, whole, labels)[4:])
    assert not moved[:4].any()
    assert moved.any()


@every_member
def test_a_model_is_left_as_found_and_errors_pass(member):
    model, (images, labels) = small_net().train(), examples()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    for way in ("__call__", "nearest"):
        with torch.inference_mode():
            found = getattr(build(member, **FEWER.get(member, {"steps": 25})), way)(
                model, images.clone(), labels.clone()
            )
        assert not found.requires_grad
        assert not found.is_inference()
        assert all(module.training for module in model.modules())
        assert all(p.requires_grad and p.grad is None for p in model.parameters())
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
        assert not model._forward_hooks
    with pytest.raises(InputError, match="labels"):
        build(member).nearest(model, images, labels[:3])


@every_member
def test_no_gradient_and_nan_logits_do_no_harm(member):
    def blind(images):
        with torch.no_grad():
            return torch.stack([images.mean((1, 2, 3)), torch.zeros(len(images), dtype=images.dtype)], dim=1)

    def poisoned(images):
        pixel = images.flatten(1)
        return torch.stack([pixel.sum(1), torch.where(pixel[:, 0] > 0.5, torch.nan, -10.0) * pixel[:, 1]], dim=1)

    images, labels = examples()[0], torch.zeros(20, dtype=torch.int64)
    silent = images[:, 0, 0, 0] > 0.5
    attack = build(member, **FEWER.get(member, {"steps": 10}))
    for way in ("__call__", "nearest"):
        run = getattr(attack, way)
        assert torch.equal(run(blind, images, labels), images)
        found = run(poisoned, images, labels)
        assert torch.equal(found[silent], images[silent])
        assert ((found >= 0) & (found <= 1)).all()


@every_member
def test_the_judge_has_the_last_word(member):
    """A judge that wants a clear margin: what the model alone lets pass is not enough."""
    model, (images, labels) = small_net(), examples(spoilt=0)
    asked = []

    def strict(candidates, labels, streams):
        asked.append(len(candidates))
        return margin(model, candidates, labels, {}) > 0.02

    fewer = FEWER.get(member, {"steps": 25})
    loose, own = build(member, 2.0, **fewer), build(member, **fewer)
    for run in (loose, own, own.nearest):
        found = run(model, images, labels, judge=strict)
        moved = (found != images).flatten(1).any(1)
        with torch.no_grad(), evaluating(model):
            assert (margin(model, found, labels, {})[moved] > 0.02).all()
    assert len(asked) > 3


class Counting(nn.Module):
    """Counts forwards, their images, and those of them that are differentiated."""

    def __init__(self, inner):
        super().__init__()
        self.inner, self.forwards, self.images, self.backwards = inner, 0, 0, 0

    def forward(self, images):
        self.forwards += 1
        self.images += len(images)
        if images.requires_grad:
            images.register_hook(self._count)
        return self.inner(images)

    def _count(self, gradient):
        self.backwards += 1


UNREACHABLE = {
    "cw-l2": (6 * 40, 1),
    "ddn": (100, 2),
    "fmn-linf": (100, 2),
    "fmn-l2": (100, 2),
    "fmn-l1": (100, 2),
}


@pytest.mark.parametrize("member", list(UNREACHABLE))
def test_one_forward_and_one_backward_for_each_step(member):
    """Beyond the steps: the start (one forward, K - 1 backwards), the last iterate, and its pull into the ball."""
    steps, idle = UNREACHABLE[member]
    images, labels = examples(spoilt=0)
    model = Counting(small_net())
    attack = build(member, 1e-6)
    attack(model, images, labels)
    assert (model.forwards, model.backwards) == (1 + steps + idle, 3 + steps)
    model = Counting(small_net())
    attack.nearest(model, images, labels)
    assert (model.forwards, model.backwards) == (1 + steps + idle - 1 + 10, 3 + steps)


def test_deepfool_takes_a_forward_and_a_backward_per_class_and_ends_where_the_prediction_changes():
    images, labels = examples(spoilt=0)
    model = Counting(small_net())
    found = build("deepfool-l2").nearest(model, images, labels)
    assert wrong(model.inner, found, labels).all()
    assert model.forwards < 20
    assert model.backwards % 3 == 0
    assert model.images < 10 * len(images) + 10 * len(images)


@pytest.mark.parametrize("member", [member for member in MEMBERS if member != "cw-l2"])  # which begins with small c
def test_points_that_fall_inside_the_ball_cost_nothing_more(member):
    images, labels = examples(spoilt=0)
    model = Counting(small_net())
    build(member, 20.0)(model, images, labels)
    assert model.images <= 4 * len(images)
