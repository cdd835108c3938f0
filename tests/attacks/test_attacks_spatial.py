"""Rotations and translations: closed forms of the transformation, then the search."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from deconfound.attacks.spatial import RotationTranslation
from deconfound.core.streams import Streams
from deconfound.core.threat import ThreatModel
from deconfound.errors import InputError
from deconfound.functional.rotation import transformed

THREAT = ThreatModel("linf", "8/255")


def pictures(count=4, height=12, width=12, channels=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, channels, height, width, generator=generator, dtype=torch.float64)


def moved(images, degrees=0.0, down=0.0, right=0.0):
    same = torch.ones(len(images), dtype=torch.float64)
    return transformed(images, degrees * same, down * same, right * same)


def test_nothing_is_the_identity_and_quarter_turns_are_rot90():
    images = pictures()
    for turns in (-1, 0, 1, 2):
        expected = torch.rot90(images, turns, (2, 3))
        torch.testing.assert_close(moved(images, 90.0 * turns), expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(moved(images.float()), images.float(), rtol=0, atol=1e-5)


@pytest.mark.parametrize(("height", "width"), [(12, 12), (10, 20)])
def test_whole_pixels_move_and_black_comes_in(height, width):
    images = pictures(height=height, width=width)
    found = moved(images, down=2 / height, right=-3 / width)
    expected = torch.zeros_like(images)
    expected[:, :, 2:, :-3] = images[:, :, :-2, 3:]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_half_a_pixel_is_the_mean_of_two_neighbours():
    images = pictures()
    found = moved(images, right=0.5 / 12)
    torch.testing.assert_close(found[..., 1:], (images[..., 1:] + images[..., :-1]) / 2, rtol=0, atol=1e-12)
    torch.testing.assert_close(found[..., 0], images[..., 0] / 2, rtol=0, atol=1e-12)


def test_an_oblong_image_turns_without_shear():
    """A point at (x, y) from the centre goes to where the rotation says, in pixels of both axes alike."""
    image = torch.zeros(1, 1, 21, 41, dtype=torch.float64)
    image[0, 0, 10, 28] = 1  # 8 right of the centre
    found = moved(image, 30.0)[0, 0]
    rows, columns = torch.meshgrid(torch.arange(21.0), torch.arange(41.0), indexing="ij")
    mass = found.sum()
    assert float((found * columns).sum() / mass) - 20 == pytest.approx(8 * 3**0.5 / 2, abs=0.1)
    assert 10 - float((found * rows).sum() / mass) == pytest.approx(4.0, abs=0.1)


@given(degrees=st.floats(-180, 180), down=st.floats(-1, 1), right=st.floats(-1, 1))
@settings(max_examples=50, deadline=None)
def test_pixels_stay_between_black_and_the_largest(degrees, down, right):
    images = pictures(1)
    found = moved(images, degrees, down, right)
    assert found.min() >= 0
    assert found.max() <= images.max() + 1e-12


def test_the_grid_has_its_members_the_mildest_first():
    attack = RotationTranslation(THREAT)
    members = attack.members()
    assert len(members) == len(set(members)) == 31 * 5 * 5 - 1
    sizes = [abs(d) / 30 + abs(y) / 0.1 + abs(x) / 0.1 for d, y, x in members]
    assert all(later >= earlier - 1e-12 for earlier, later in pairwise(sizes))
    assert members[0][0] == pytest.approx(-2) or members[0][0] == pytest.approx(2)
    assert (30.0, 0.1, -0.1) in members
    assert len(RotationTranslation(THREAT, degrees=0).members()) == 24
    assert len(RotationTranslation(THREAT, shift=0).members()) == 30


def left_right(images):
    """Two classes: where the light lies, left (0) or right (1) of the middle column."""
    half = images.shape[3] // 2
    return torch.stack([images[..., :half].sum((1, 2, 3)), images[..., half:].sum((1, 2, 3))], dim=1)


def spots(columns, side=20):
    images = torch.zeros(len(columns), 1, side, side, dtype=torch.float64)
    for image, column in zip(images, columns, strict=True):
        image[0, 8:12, column] = 1
    return images


def test_the_search_finds_exactly_what_the_largest_shift_reaches():
    """A bar at column c crosses the middle (10) where 10 - c <= 2 pixels, the largest shift of a tenth of 20."""
    columns = [12, 9, 8, 7, 5]
    images, labels = spots(columns), torch.zeros(5, dtype=torch.int64)
    found = RotationTranslation(THREAT, degrees=0)(left_right, images, labels)
    changed = (found != images).flatten(1).any(1)
    assert changed.tolist() == [False, True, True, False, False]
    torch.testing.assert_close(found[1:3].sum((1, 2, 3)), torch.full((2,), 4.0, dtype=torch.float64))
    assert found[1, 0, 8:12, 10].sum() == pytest.approx(4)  # the mildest: one pixel to the right
    assert found[2, 0, 8:12, 10].sum() == pytest.approx(4)
    shorter = RotationTranslation(THREAT, degrees=0, shift=0.05)(left_right, images, labels)
    assert (shorter != images).flatten(1).any(1).tolist() == [False, True, False, False, False]


def test_random_tries_stay_within_reach_and_more_of_them_find_more():
    images, labels = spots([9] * 60), torch.zeros(60, dtype=torch.int64)
    broken = []
    for tries in (1, 4, 16):
        attack = RotationTranslation(THREAT, degrees=0, tries=tries)
        broken.append((attack(left_right, images, labels) != images).flatten(1).any(1))
        assert not (attack(left_right, spots([6] * 60), labels) != spots([6] * 60)).any()
    assert (~broken[0] | broken[1]).all()
    assert (~broken[1] | broken[2]).all()
    assert 0 < int(broken[0].sum()) < int(broken[1].sum())
    assert int(broken[2].sum()) == 60  # each try moves the bar over half a pixel or more with probability 3/8


@pytest.mark.parametrize("search", [{"grid": (5, 3)}, {"tries": 12}])
def test_float64_results_do_not_depend_on_batch_size_or_order(search):
    torch.manual_seed(1)
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(400, 5)).double().eval()
    images = pictures(21)
    with torch.no_grad():
        labels = model(images).argmax(1)
    labels[:3] = (labels[:3] + 1) % 5
    attack, index = RotationTranslation(THREAT, **search), torch.arange(21) * 7
    whole = attack(model, images, labels, Streams(2, index))
    again = torch.empty_like(whole)
    for part in torch.randperm(21, generator=torch.Generator().manual_seed(2)).split(4):
        again[part] = attack(model, images[part], labels[part], Streams(2, index[part]))
    torch.testing.assert_close(again, whole, rtol=0, atol=1e-12)
    assert torch.equal(whole[:3], images[:3])
    with torch.no_grad():
        changed = (whole != images).flatten(1).any(1)
        assert torch.equal(model(whole[3:]).argmax(1) != labels[3:], changed[3:])
    assert changed.any()


def test_autocast_around_the_call_changes_no_pixel():
    images, labels = spots([9, 8, 5]).float(), torch.zeros(3, dtype=torch.int64)
    expected = RotationTranslation(THREAT, degrees=0)(left_right, images, labels)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = RotationTranslation(THREAT, degrees=0)(left_right, images, labels)
    assert torch.equal(found, expected)


def test_outside_of_another_box_lies_its_lower_end():
    images = spots([9]) * 2 - 1
    attack = RotationTranslation(ThreatModel("l2", 0.5, (-1, 1)), degrees=0)
    assert attack.threat == ThreatModel("linf", 2.0, (-1, 1))
    found = attack(left_right, images, torch.zeros(1, dtype=torch.int64))
    expected = spots([10]) * 2 - 1
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    assert attack.threat.contains(found, images).all()


def test_a_single_point_left_costs_few_calls():
    calls = []

    def counted(images):
        calls.append(len(images))
        return left_right(images)

    RotationTranslation(THREAT)(counted, spots([2]), torch.zeros(1, dtype=torch.int64))
    assert sum(calls) == 1 + 774
    assert len(calls) <= 1 + 7


def test_settings_say_what_bounds_the_attack():
    attack = RotationTranslation(THREAT, grid=[5, 3])
    found = json.loads(json.dumps(attack.settings()))
    assert found == attack.settings()
    assert found["bound"] == "rotation by at most 30 degrees, shift by at most 10 % of each side"
    assert found["grid"] == [5, 3]
    assert (attack.name, RotationTranslation(THREAT, tries=10).name) == ("spatial-grid", "spatial-x10")
    assert attack.at(ThreatModel("l2", 1)) == attack


@pytest.mark.parametrize(
    ("field", "settings"),
    [
        ("degrees", {"degrees": 200}),
        ("degrees", {"degrees": -1}),
        ("degrees", {"degrees": 0, "shift": 0}),
        ("shift", {"shift": 1.5}),
        ("grid", {"grid": (4, 3)}),
        ("grid", {"grid": 5}),
        ("grid", {"grid": (1, 1)}),
        ("tries", {"tries": 0}),
        ("threat", {"threat": "linf"}),
    ],
)
def test_wrong_settings_are_input_errors(field, settings):
    with pytest.raises(InputError, match=field):
        RotationTranslation(**{"threat": THREAT, **settings})
