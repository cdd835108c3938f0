"""AutoPGD against closed forms, against the published schedule, and against the published algorithm."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from deconfound.attacks import APGD
from deconfound.attacks.climb import windows
from deconfound.attacks.gradient import PGD
from deconfound.attacks.losses import dlr, margin, targeted_cross_entropy, targeted_dlr, targeted_margin
from deconfound.attacks.targets import Aimed, ranked
from deconfound.core.streams import Streams
from deconfound.core.threat import ThreatModel
from deconfound.errors import InputError

EPS = {"linf": 0.06, "l2": 0.4, "l1": 1.5}


def linear(classes, seed=0, size=36):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(size, classes).double())


def pictures(count=40, seed=1, side=6):
    """Images of which many pixels touch the box."""
    generator = torch.Generator().manual_seed(seed)
    return (torch.rand(count, 1, side, side, generator=generator, dtype=torch.float64) * 1.4 - 0.2).clamp(0, 1)


def greatest_gain(weight, images, threat):
    """max <w, z - x> over the ball and the box, exactly, (B,)."""
    flat = images.flatten(1)
    room = torch.where(weight > 0, threat.box[1] - flat, flat - threat.box[0])
    size = weight.abs().expand_as(flat)
    if threat.norm == "linf":
        return (size * room.clamp_max(threat.eps)).sum(1)
    if threat.norm == "l1":
        order = size.argsort(dim=1, descending=True)
        cut, slope = room.gather(1, order), size.gather(1, order)
        before = cut.cumsum(1) - cut
        return ((threat.eps - before).clamp_min(0).minimum(cut) * slope).sum(1)
    low, high = torch.zeros(len(flat), 1).double(), torch.full((len(flat), 1), 1e6).double()
    for _ in range(80):  # |min(t |w|, room)|_2 grows with t
        middle = (low + high) / 2
        inside = torch.minimum(middle * size, room).norm(dim=1, keepdim=True) <= threat.eps
        low, high = torch.where(inside, middle, low), torch.where(inside, high, middle)
    return (size * torch.minimum(low * size, room)).sum(1)


def worst_margin(model, images, labels, threat):
    """max over classes k != y of the largest z_k - z_y that the threat model allows, (B,)."""
    weight, bias = model[1].weight.detach(), model[1].bias.detach()
    found = torch.full((len(images),), -torch.inf, dtype=torch.float64)
    for k in range(len(weight)):
        difference = weight[k] - weight[labels]
        lead = (images.flatten(1) * difference).sum(1) + bias[k] - bias[labels]
        reach = lead + greatest_gain(difference, images, threat)
        found = torch.where(labels == k, found, torch.maximum(found, reach))
    return found


def balanced(model, images, threat):
    """Labels that the model gets right, and biases under which about half of the images can be broken."""
    with torch.no_grad():
        model[1].bias -= model(images).mean(0)
        labels = model(images).argmax(1)
        scale = 1.0
        for _ in range(12 if len(model[1].weight) > 10 else 40):
            broken = (worst_margin(model, images, labels, threat) > 0).double().mean()
            scale *= 0.93 if broken > 0.6 else 1.07 if broken < 0.4 else 1.0
            threat = threat.with_eps(EPS[threat.norm] * scale)
    return labels, threat


def broken(model, attack, images, labels):
    with torch.no_grad():
        return model(attack(model, images, labels)).argmax(1) != labels


CASES = [
    (2, {}),
    (2, {"loss": dlr}),
    (2, {"loss": margin}),
    (2, {"targets": 9}),
    (3, {"targets": 9}),
    (10, {"targets": 9}),
    (10, {"targets": 9, "loss": targeted_margin}),
    (100, {"targets": 99}),
]


@pytest.mark.parametrize("norm", list(EPS))
@pytest.mark.parametrize(("classes", "choice"), CASES)
def test_apgd_breaks_exactly_what_can_be_broken_on_linear_models(norm, classes, choice):
    many = classes == 100
    images = pictures(8 if many else 30)
    model = linear(classes)
    labels, threat = balanced(model, images, ThreatModel(norm, EPS[norm]))
    worst = worst_margin(model, images, labels, threat)
    found = broken(model, APGD(threat, steps=30 if many else 100, **choice), images, labels)
    clear = worst.abs() > (0.05 if many else 0.01) * worst.abs().median()
    assert torch.equal(found[clear], (worst > 0)[clear]), (worst[clear][found[clear] != (worst > 0)[clear]]).tolist()
    assert not found[worst < -1e-9].any()
    assert 0.2 < float(found.double().mean()) < 0.8


def test_the_large_eps_schedule_stays_inside_and_breaks_what_can_be_broken():
    images, model = pictures(), linear(10)
    labels, threat = balanced(model, images, ThreatModel("l1", EPS["l1"]))
    attack = APGD(threat, targets=9, schedule="large-eps")
    found = attack(model, images, labels)
    assert threat.contains(found, images).all()
    worst = worst_margin(model, images, labels, threat)
    clear = worst.abs() > 0.02 * worst.abs().median()
    assert torch.equal(broken(model, attack, images, labels)[clear], (worst > 0)[clear])


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**31), norm=st.sampled_from(sorted(EPS)))
def test_a_larger_radius_breaks_no_fewer_points_of_a_linear_model(seed, norm):
    images, model = pictures(12, seed % 97), linear(4, seed)
    with torch.no_grad():
        labels = model(images).argmax(1)
    worst = {}
    shares = []
    for factor in (0.0, 0.5, 1.0, 2.0):
        threat = ThreatModel(norm, factor * EPS[norm])
        worst[factor] = worst_margin(model, images, labels, threat)
        shares.append(broken(model, APGD(threat, steps=40, targets=3), images, labels))
    assert not shares[0].any()
    for (smaller, larger), factor in zip(pairwise(shares), (0.5, 1.0, 2.0), strict=True):
        clear = worst[factor].abs() > 0.02 * worst[factor].abs().median()
        assert not (smaller & ~larger)[clear].any()


def test_checkpoints_are_those_of_the_paper():
    assert list(windows(100, "linf").items())[:4] == [(22, 22), (41, 19), (57, 16), (70, 13)]
    assert list(windows(100, "l2"))[-1] <= 100
    assert set(windows(100, "linf").values()) >= {6}
    assert list(windows(100, "l1").values()) == [4] * 25
    assert windows(1, "linf") == {1: 1}


def test_cost_is_one_gradient_for_each_step_and_one_last_forward():
    calls = []

    class Counted(nn.Module):
        def forward(self, images):
            calls.append((len(images), torch.is_grad_enabled()))
            return torch.stack([images.flatten(1).sum(1) + 1e3, images.flatten(1)[:, 0]], dim=1)

    images, labels = pictures(5), torch.zeros(5, dtype=torch.int64)
    APGD(ThreatModel("linf", 0.1), steps=10)(Counted(), images, labels)
    assert [count for count, _ in calls] == [5] * 12  # the clean images, 10 gradients, the last iterate
    assert sum(grad for _, grad in calls[1:-1]) == 10
    assert not calls[-1][1]


def test_targets_side_by_side_find_what_they_find_alone():
    torch.manual_seed(2)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 6)).double()
    images = pictures(30)
    with torch.no_grad():
        labels = model(images).argmax(1)
    threat, streams = ThreatModel("linf", 0.03), Streams(3, range(30))
    wide = APGD(threat, steps=12, targets=4, rows=256)(model, images, labels, streams)
    narrow = APGD(threat, steps=12, targets=4, rows=1)(model, images, labels, streams)
    with torch.no_grad():
        fallen = [model(found).argmax(1) != labels for found in (wide, narrow)]
    assert torch.equal(*fallen)
    assert 0 < int(fallen[0].sum()) < 30


def test_the_given_target_is_climbed_and_may_not_be_the_label():
    images, model = pictures(10), linear(5)
    with torch.no_grad():
        labels = model(images).argmax(1)
    attack = APGD(ThreatModel("linf", 0.5), steps=10, targets=1, loss=targeted_dlr)
    target = (labels + 1) % 5
    found = attack(model, images, labels, context={"target": target})
    with torch.no_grad():
        reached = model(found).argmax(1)
    assert (reached != labels).all()
    with pytest.raises(InputError, match=r"context\['target'\]: got 'class \d for an image of that class'"):
        attack(model, images, labels, context={"target": labels})
    with pytest.raises(InputError, match=r"context\['target'\]"):
        PGD(ThreatModel("linf", 0.5), loss=targeted_cross_entropy)(model, images, labels, context={"target": labels})


@pytest.mark.parametrize("aim", ["random", "most-likely", "least-likely"])
def test_aims_are_the_classes_they_are_called(aim):
    images, model = pictures(20), linear(5)
    with torch.no_grad():
        logits = model(images)
    labels = logits.argmax(1)
    seen = []

    def spy(model, images, labels, context):
        seen.append(context["target"])
        return targeted_cross_entropy(model, images, labels, context)

    Aimed(PGD(ThreatModel("linf", 1e-6), steps=1, loss=spy), aim=aim)(model, images, labels)
    order = ranked(logits, labels, 9)
    if aim == "random":
        assert (seen[0] != labels).all()
        assert len(set(seen[0].tolist())) > 1
    else:
        assert torch.equal(seen[0], order[:, 0 if aim == "most-likely" else -1])


def test_ranking_leaves_the_label_out_also_where_logits_are_odd():
    logits = torch.tensor([[torch.nan, 1.0, 2.0, -torch.inf], [5.0, 5.0, 5.0, 5.0]])
    assert ranked(logits, torch.tensor([2, 0]), 9).tolist() == [[1, 3, 0], [1, 2, 3]]


@pytest.mark.parametrize("norm", EPS)
def test_a_start_at_the_image_draws_nothing_and_later_restarts_do(norm):
    images = pictures(8)
    model = nn.Sequential(linear(4), nn.Tanh(), nn.Linear(4, 4).double())
    labels = model(images).argmax(1)
    first = Watched(model)
    for seed in (0, 1):
        APGD(ThreatModel(norm, 1e-3), steps=2, start="none", restarts=2)(first, images, labels, Streams(seed, range(8)))
    one, two = first.seen[: len(first.seen) // 2], first.seen[len(first.seen) // 2 :]
    half = len(one) // 2
    assert torch.equal(one[0], images)
    assert all(torch.equal(a, b) for a, b in zip(one[:half], two[:half], strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(one[half:], two[half:], strict=True))


class Watched(nn.Module):
    """Remembers every image that it was given."""

    def __init__(self, model):
        super().__init__()
        self.model, self.seen = model, []

    def forward(self, images):
        self.seen.append(images.detach().clone())
        return self.model(images)


@pytest.mark.parametrize(
    ("choice", "field"),
    [
        ({"steps": 0}, "steps"),
        ({"restarts": 0}, "restarts"),
        ({"targets": -1}, "targets"),
        ({"rho": 1.5}, "rho"),
        ({"draws": 0}, "draws"),
        ({"start": "given"}, "start"),
        ({"schedule": "steep"}, "schedule"),
        ({"schedule": "large-eps", "steps": 2}, "steps"),
        ({"loss": targeted_dlr}, "targets"),
        ({"loss": 3}, "loss"),
        ({"rows": 0}, "rows"),
    ],
)
def test_wrong_settings_name_their_field(choice, field):
    with pytest.raises(InputError) as caught:
        APGD(ThreatModel(), **choice)
    assert caught.value.field == field


class TestWhole:
    @pytest.mark.parametrize("norm", ["linf", "l2"])
    def test_every_point_comes_back_at_its_worst_whether_it_falls_or_not(self, norm):
        """Two classes and a linear network: the largest margin is known, also of points that never fall."""
        model, images, threat = linear(2), pictures(), ThreatModel(norm, EPS[norm])
        with torch.no_grad():
            labels = model(images).argmax(1)
        labels[::4] = 1 - labels[::4]  # wrong when clean
        found = APGD(threat, steps=60, loss=margin, whole=True)(model, images, labels)
        assert torch.equal(threat.project(found, images), found) or float(threat.distance(found, images).max()) <= (
            threat.eps + 1e-9
        )
        with torch.no_grad():
            reached = margin(model, found, labels, {})
        worst = worst_margin(model, images, labels, threat)
        torch.testing.assert_close(reached, worst, rtol=0, atol=2e-2 * float(worst.abs().max()))
        fallen = reached > 0
        assert fallen.any()
        assert not fallen.all()
        hunted = APGD(threat, steps=60, loss=margin)(model, images, labels)
        assert torch.equal(hunted[~fallen], images[~fallen])  # which is what ``whole`` is for

    def test_it_does_not_depend_on_the_batch_and_asks_no_judge(self):
        def never(images, labels, streams):
            raise AssertionError("asked")

        model, images, attack = linear(3), pictures(12), APGD(ThreatModel("linf", 0.06), steps=8, whole=True)
        labels = torch.arange(12) % 3
        all_of_them = attack(model, images, labels, Streams(0, range(12)), judge=never)
        apart = [attack(model, images[i : i + 5], labels[i : i + 5], Streams(0, range(i, min(i + 5, 12))))
                 for i in range(0, 12, 5)]  # fmt: skip
        torch.testing.assert_close(torch.cat(apart), all_of_them, rtol=0, atol=1e-12)
        assert attack.settings()["keep"] == "best"
        assert attack.at(ThreatModel("linf", 0.1)).whole

    @pytest.mark.parametrize("setting", [{"restarts": 2}, {"targets": 2}, {"schedule": "large-eps"}])
    def test_it_is_one_climb(self, setting):
        with pytest.raises(InputError, match=r"^whole: got True; expected False with restarts, targets or a schedule"):
            APGD(ThreatModel("linf", 0.1), whole=True, **setting)
