"""Augmentation: windows, mirrors and rotations against explicit ones; no dependence on the batch."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from deconfound.core.streams import Streams
from deconfound.data import augment
from deconfound.data.augment import Compose, RandomCrop, RandomFlip, RandomRotation, build
from deconfound.errors import InputError

EVERYTHING = build(crop=2, padding="reflect", flip=True, rotation=20)


def batch(count=16, channels=3, height=6, width=7, dtype=torch.float32):
    return torch.rand(count, channels, height, width, generator=torch.Generator().manual_seed(1)).to(dtype)


def windows(image, padding, mode):
    """All windows of one padded image by plain slicing, keyed by corner."""
    height, width = image.shape[-2:]
    padded = F.pad(image[None], (padding,) * 4, mode={"zero": "constant"}.get(mode, mode))[0]
    side = range(2 * padding + 1)
    return {(i, j): padded[:, i : i + height, j : j + width] for i in side for j in side}


@pytest.mark.parametrize("mode", ["zero", "reflect"])
@pytest.mark.parametrize("padding", [1, 2, 5])
def test_each_crop_is_a_window_of_its_padded_image(padding, mode):
    images = batch(40)
    out = RandomCrop(padding, mode)(images, Streams(3, range(40)))
    found = set()
    for image, cropped in zip(images, out, strict=True):
        matches = [corner for corner, window in windows(image, padding, mode).items() if torch.equal(window, cropped)]
        assert matches
        found.update(matches)
    assert len(found) > 5


def test_all_corners_are_equally_likely():
    count, padding = 9000, 1
    images = torch.zeros(count, 1, 3, 3)
    images[:, :, 1, 1] = 1  # the bright pixel tells the corner
    out = RandomCrop(padding)(images, Streams(0, range(count)))
    places = out.flatten(1).argmax(dim=1).bincount(minlength=9)
    assert places.sum() == count
    assert ((places - count / 9).abs() < 5 * (count / 9) ** 0.5).all()  # five standard deviations


@given(st.integers(0, 4), st.integers(0, 4))
def test_crop_takes_rows_from_tops_and_columns_from_lefts(top, left):
    images = batch(2)
    out = augment.crop(images, torch.tensor([top, 2]), torch.tensor([left, 2]), 2)
    assert torch.equal(out[0], windows(images[0], 2, "zero")[top, left])
    assert torch.equal(out[1], images[1])


def test_flip_mirrors_left_and_right_in_half_of_the_images():
    images = batch(2000)
    out = RandomFlip()(images, Streams(0, range(2000)))
    mirrored = (out == images.flip(-1)).flatten(1).all(dim=1)
    kept = (out == images).flatten(1).all(dim=1)
    assert (mirrored ^ kept).all()
    assert 890 < mirrored.sum() < 1110  # five standard deviations of 22
    assert torch.equal(RandomFlip(1.0)(images, Streams(0, range(2000))), images.flip(-1))
    assert torch.equal(RandomFlip(0.0)(images, Streams(0, range(2000))), images)


def test_rotation_by_nothing_is_identity():
    images = batch()
    assert torch.allclose(augment.rotate(images, torch.zeros(16)), images, atol=1e-5)
    assert torch.allclose(RandomRotation(0)(images, Streams(0, range(16))), images, atol=1e-5)


@pytest.mark.parametrize("turns", [-1, 1, 2, 3])
@pytest.mark.parametrize("side", [6, 7])
def test_rotation_by_quarters_is_rot90(turns, side):
    images = batch(height=side, width=side)
    turned = augment.rotate(images, torch.full((16,), 90.0 * turns))
    assert torch.allclose(turned, torch.rot90(images, turns, (2, 3)), atol=1e-4)


def test_rotation_keeps_proportions():
    images = torch.zeros(1, 1, 9, 21)
    images[:, :, 4, 13] = 1  # three to the right of the centre
    turned = augment.rotate(images, torch.tensor([90.0]))
    assert turned[0, 0, 1, 10] == pytest.approx(1, abs=1e-4)  # three above it
    assert turned.sum() == pytest.approx(1, abs=1e-4)


def test_angles_are_uniform_in_the_range():
    count = 4000
    images = torch.zeros(count, 1, 41, 41)
    images[:, :, 20, 40] = 1  # far to the right: its height tells the angle
    out = RandomRotation(30)(images, Streams(0, range(count)))
    rows = torch.arange(41.0).view(1, 1, 41, 1)
    height = 20 - (out * rows).sum((1, 2, 3)) / out.sum((1, 2, 3))
    angle = torch.rad2deg(torch.asin((height / 20).clamp(-1, 1)))
    assert -31 < angle.min() < -29
    assert 29 < angle.max() < 31
    assert abs(angle.mean()) < 5 * 30 / 3**0.5 / count**0.5


@pytest.mark.parametrize(
    "change", [RandomCrop(2), RandomCrop(2, "reflect"), RandomFlip(), RandomRotation(30), EVERYTHING]
)
def test_neither_batch_nor_order_matter(change):
    images, ids = batch(12), torch.randint(0, 10**6, (12,))
    together = change(images, Streams(5, ids))
    order = torch.randperm(12)
    assert torch.equal(change(images[order], Streams(5, ids[order])), together[order])
    for part in torch.arange(12).split(5):
        assert torch.allclose(change(images[part], Streams(5, ids[part])), together[part], atol=1e-6)
    assert not torch.equal(change(images, Streams(6, ids)), together)


@pytest.mark.parametrize("change", [RandomCrop(2), RandomFlip(), RandomRotation(45), EVERYTHING])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_range_dtype_and_layout_are_kept(change, dtype, layout):
    images = batch(dtype=dtype).contiguous(memory_format=layout)
    images[:4] = 1
    before = images.clone()
    out = change(images, Streams(0, range(16)))
    assert (out.dtype, out.shape, out.stride()) == (dtype, images.shape, images.stride())
    assert out.min() >= 0
    assert out.max() <= 1
    assert torch.equal(images, before)


def test_grey_images_in_either_layout_come_out_in_rows():
    images = batch(channels=1).contiguous(memory_format=torch.channels_last)
    assert EVERYTHING(images, Streams(0, range(16))).is_contiguous()


def test_parts_of_a_composition_draw_on_their_own():
    images = batch(64)
    twice = Compose([RandomFlip(), RandomFlip()])(images, Streams(0, range(64)))
    assert not torch.equal(twice, images)  # equal draws would undo each other


def test_the_global_random_state_is_left_alone():
    before = torch.random.get_rng_state()
    EVERYTHING(batch(), Streams(0, range(16)))
    assert torch.equal(torch.random.get_rng_state(), before)


def test_build():
    images = batch()
    assert build().parts == ()
    assert build()(images, Streams(0, range(16))) is images
    assert build(3, "reflect", True, 5.0).parts == (RandomCrop(3, "reflect"), RandomFlip(), RandomRotation(5.0))
    assert build(flip=True).parts == (RandomFlip(),)


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda: RandomCrop(-1), "crop"),
        (lambda: RandomCrop(1.5), "crop"),
        (lambda: build(crop=-2), "crop"),
        (lambda: RandomCrop(1, "edge"), "padding"),
        (lambda: build(padding="edge"), "padding"),
        (lambda: RandomFlip(1.1), "flip"),
        (lambda: RandomFlip(float("nan")), "flip"),
        (lambda: RandomRotation(-1), "rotation"),
        (lambda: RandomRotation(float("nan")), "rotation"),
        (lambda: build(rotation=181), "rotation"),
        (lambda: RandomCrop(6, "reflect")(batch(), Streams(0, range(16))), "padding"),
        (lambda: RandomFlip()(batch(), Streams(0, range(15))), "streams"),
    ],
)
def test_bad_input(make, field):
    with pytest.raises(InputError) as caught:
        make()
    assert caught.value.field == field
