"""The patch: one window, and the known optimum of linear models."""

from __future__ import annotations

import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from deconfound.attacks.losses import cross_entropy
from deconfound.attacks.patch import Patch, window_size, windows
from deconfound.core.streams import Streams
from deconfound.core.threat import ThreatModel
from deconfound.errors import InputError

THREAT = ThreatModel("linf", "8/255")


def linear(seed=0, side=12, channels=1):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(channels * side * side, 2)).double()


def pictures(count=20, side=12, channels=1, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, channels, side, side, generator=generator, dtype=torch.float64)


def margins(model, images):
    """z_1 - z_0."""
    with torch.no_grad():
        z = model(images)
    return z[:, 1] - z[:, 0]


def spread(found, images):
    """Height and width of the smallest window that holds every change, (B,) each."""
    changed = (found != images).any(1)
    rows, columns = changed.any(2).double(), changed.any(1).double()

    def extent(line):
        places = torch.arange(1.0, line.shape[1] + 1, dtype=torch.float64)
        last = (line * places).amax(1)
        first = torch.where(line > 0, places, torch.inf).amin(1)
        return (last - first + 1).clamp_min(0)

    return extent(rows), extent(columns)


@given(share=st.floats(1e-4, 1), height=st.integers(1, 300), width=st.integers(1, 300))
def test_the_window_covers_at_most_its_share_but_a_pixel(share, height, width):
    tall, wide = window_size(share, height, width)
    assert 1 <= tall <= height
    assert 1 <= wide <= width
    assert tall * wide <= max(1.0, share * height * width + 1e-6)
    if min(height, width) >= 28 and share >= 0.05 and max(height, width) <= 2 * min(height, width):
        assert tall * wide >= 0.8 * share * height * width


def test_windows_are_where_they_are_said_to_be():
    found = windows(torch.tensor([0, 2]), torch.tensor([1, 0]), (2, 3), 4, 5)
    expected = torch.zeros(2, 1, 4, 5, dtype=torch.bool)
    expected[0, 0, 0:2, 1:4] = True
    expected[1, 0, 2:4, 0:3] = True
    assert torch.equal(found, expected)


@pytest.mark.parametrize("loss", [None, cross_entropy])
@pytest.mark.parametrize("box", [(0.0, 1.0), (-1.0, 3.0)])
def test_a_searched_patch_reaches_the_optimum_of_a_linear_model(loss, box):
    """max over windows of sum max(w (high - x), w (low - x)) is the largest margin that any patch can win.

    With the bias just below it the patch breaks an image exactly where the optimum does.
    """
    low, high = box
    model, images = linear(), low + (high - low) * pictures(200)
    labels = torch.zeros(200, dtype=torch.int64)
    weight = (model[1].weight[1] - model[1].weight[0]).detach().view(1, 1, 12, 12)
    size = window_size(0.1, 12, 12)
    reach = torch.maximum(weight * (high - images), weight * (low - images))
    best = F.avg_pool2d(reach, size, stride=1, divisor_override=1).flatten(1).amax(1)
    with torch.no_grad():
        model[1].bias[1] -= (margins(model, images) + best).median()
    reached = margins(model, images) + best
    settings = {} if loss is None else {"loss": loss}
    attack = Patch(ThreatModel("linf", "8/255", box), share=0.1, steps=20, restarts=1, **settings)
    found = attack(model, images, labels)
    broken = margins(model, found) > 0
    decided = reached.abs() > 1e-9
    assert torch.equal(broken[decided], (reached > 0)[decided])
    assert 40 < int(broken.sum()) < 160
    assert attack.threat.contains(found, images).all()


def test_every_change_lies_in_one_window_of_the_share():
    model, images = linear(side=28, channels=3), pictures(40, 28, 3)
    labels = (margins(model, images) > 0).long()
    for location in ("searched", "random"):
        found = Patch(THREAT, share=0.05, steps=8, location=location)(model, images, labels)
        tall, wide = spread(found, images)
        assert (tall <= 6).all()
        assert (wide <= 6).all()
        assert int(((tall == 6) & (wide == 6)).sum()) > 10
        assert found.min() >= 0
        assert found.max() <= 1


def test_a_random_window_differs_between_images_and_restarts_and_finds_less():
    model, images = linear(), pictures(200)
    labels = torch.zeros(200, dtype=torch.int64)
    with torch.no_grad():
        model[1].bias[1] -= margins(model, images).quantile(0.9) + 0.15
    right = margins(model, images) < 0
    images, labels = images[right], labels[right]
    broken = {}
    for name, settings in {
        "one": {"location": "random", "restarts": 1},
        "five": {"location": "random", "restarts": 5},
        "searched": {"restarts": 1},
    }.items():
        found = Patch(THREAT, share=0.1, steps=10, **settings)(model, images, labels)
        changed = (found != images).any(1)
        broken[name] = changed.flatten(1).any(1)
        if name == "one":
            corners = {int(one.flatten().nonzero()[0]) for one in changed if one.any()}
            assert len(corners) > 3
    assert (~broken["one"] | broken["five"]).all()
    assert (~broken["five"] | broken["searched"]).all()
    assert 0 < int(broken["one"].sum()) < int(broken["five"].sum()) < int(broken["searched"].sum())


def small_net():
    torch.manual_seed(3)
    net = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.Tanh(), nn.Flatten(), nn.Linear(400, 5))
    return net.double().eval()


def test_float64_results_do_not_depend_on_batch_size_or_order():
    model, images = small_net(), pictures(21, 12, 2)
    with torch.no_grad():
        labels = model(images).argmax(1)
    labels[:3] = (labels[:3] + 1) % 5
    attack, index = Patch(THREAT, share=0.04, steps=6, restarts=2), torch.arange(21) * 7
    whole = attack(model, images, labels, Streams(2, index))
    again = torch.empty_like(whole)
    for part in torch.randperm(21, generator=torch.Generator().manual_seed(2)).split(4):
        again[part] = attack(model, images[part], labels[part], Streams(2, index[part]))
    torch.testing.assert_close(again, whole, rtol=0, atol=1e-9)
    changed = (whole != images).flatten(1).any(1)
    with torch.no_grad():
        assert torch.equal(model(whole[3:]).argmax(1) != labels[3:], changed[3:])
    assert not changed[:3].any()
    assert 0 < int(changed.sum()) < 18


def test_the_first_adversarial_iterate_is_kept_and_its_point_attacked_no_more():
    model, images = small_net(), pictures(21, 12, 2)
    with torch.no_grad():
        labels = model(images).argmax(1)
    sizes = []

    def watched(x):
        sizes.append(len(x))
        return model(x)

    found = Patch(THREAT, share=0.04, steps=6, restarts=2)(watched, images, labels)
    assert sizes[2:] == sorted(sizes[2:], reverse=True)
    assert sizes[-1] < 21
    assert (found != images).any()


def test_a_model_without_gradient_gets_a_random_window():
    def flat(images):
        with torch.no_grad():
            light = images.mean((1, 2, 3))
            return torch.stack([torch.full_like(light, 0.5), light], 1)

    images = torch.full((30, 1, 12, 12), 0.4999, dtype=torch.float64)
    found = Patch(THREAT, share=0.1, steps=1, restarts=1)(flat, images, torch.zeros(30, dtype=torch.int64))
    changed = (found != images).any(1)
    broken = changed.flatten(1).any(1)
    assert 0 < int(broken.sum()) < 30
    assert len({int(one.flatten().nonzero()[0]) for one in changed[broken]}) > 3


def test_settings_say_what_bounds_the_attack():
    attack = Patch(ThreatModel("l2", 0.5, (-1, 1)), steps=10)
    assert attack.threat == ThreatModel("linf", 2.0, (-1, 1))
    assert attack.name == "patch-5%-10x3"
    found = json.loads(json.dumps(attack.settings()))
    assert found == attack.settings()
    assert found["bound"] == "one window of at most 5 % of the area"
    assert (found["kind"], found["step_size"], found["loss"]) == ("patch", 0.25, "margin")
    assert attack.at(ThreatModel("l1", 3, (-1, 1))) == attack


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("share", 0),
        ("share", 1.1),
        ("steps", 0),
        ("restarts", 0),
        ("draws", 0),
        ("step_size", 0.0),
        ("location", "corner"),
        ("loss", "margin"),
        ("threat", "linf"),
    ],
)
def test_wrong_settings_are_input_errors(field, value):
    with pytest.raises(InputError, match=field):
        Patch(**{"threat": THREAT, field: value})
