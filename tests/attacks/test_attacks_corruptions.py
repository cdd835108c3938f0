"""Corruptions: each kind against its closed form, then the attack."""

from __future__ import annotations

import io
import json
import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy import ndimage, special
from torch import nn

from deconfound.attacks.corruption_kinds import KINDS, SEVERITIES, motion_blur, poisson, strength
from deconfound.attacks.corruptions import Corruption
from deconfound.attacks.points import Points
from deconfound.core.streams import Streams
from deconfound.core.threat import ThreatModel
from deconfound.errors import InputError

THREAT = ThreatModel("linf", "8/255")
every_kind = pytest.mark.parametrize("kind", list(KINDS))


def colour(count=6, side=32, channels=3, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, channels, side, side, generator=generator, dtype=torch.float64).to(dtype)


def smooth(side, channels):
    """Waves across the image, of which every blur takes more the wider it is, with pixels at both ends of the box."""
    line = torch.arange(side, dtype=torch.float32) / 3
    wave = 0.5 + 0.5 * torch.sin(line[:, None] + torch.linspace(0, 3, 4 * channels).view(4, channels, 1, 1)) * (
        0.5 + 0.5 * torch.cos(0.7 * line)
    )
    return wave.clamp(0, 1)


def corrupted(images, kind, severity, threat=THREAT, ids=None):
    streams = Streams(0, range(len(images)) if ids is None else ids)
    points = Points.of(images, torch.zeros(len(images), dtype=torch.int64), streams, None)
    return Corruption(threat, kind=kind, severity=severity).corrupted(points, severity)


@every_kind
@pytest.mark.parametrize("side", [28, 64])
@pytest.mark.parametrize("channels", [1, 3])
def test_every_severity_changes_the_image_more_and_stays_in_the_box(kind, side, channels):
    images = smooth(side, channels)
    found = [corrupted(images, kind, severity) for severity in range(1, SEVERITIES + 1)]
    for image in found:
        assert image.shape == images.shape
        assert image.dtype == images.dtype
        assert image.min() >= 0
        assert image.max() <= 1
    change = [float((image - images).square().mean()) for image in found]
    assert all(later >= earlier for earlier, later in pairwise(change)), change
    assert change[-1] > 1.5 * change[0] > 0


def test_brightness_adds_to_the_largest_channel_and_keeps_hue_and_saturation():
    images = colour()
    images[0] = 0
    found = corrupted(images, "brightness", 5)
    value, brighter = images.amax(1), found.amax(1)
    torch.testing.assert_close(brighter, (value + 0.3).clamp_max(1), rtol=0, atol=1e-12)
    torch.testing.assert_close(found[1:] / brighter[1:, None], images[1:] / value[1:, None], rtol=0, atol=1e-12)
    torch.testing.assert_close(found[0], torch.full_like(found[0], 0.3), rtol=0, atol=1e-12)
    grey = colour(channels=1)
    torch.testing.assert_close(corrupted(grey, "brightness", 2), (grey + 0.1).clamp_max(1), rtol=0, atol=1e-12)


def test_contrast_shrinks_around_the_mean_of_each_channel():
    images = colour()
    mean = images.mean((2, 3), keepdim=True)
    torch.testing.assert_close(corrupted(images, "contrast", 1), mean + 0.75 * (images - mean), rtol=0, atol=1e-12)


def test_pixelate_at_a_half_is_the_mean_of_blocks_of_two():
    assert strength("pixelate", 5, 64, 64) == 0.5
    images = colour(side=64)
    blocks = images.view(6, 3, 32, 2, 32, 2).mean((3, 5))
    expected = blocks.repeat_interleave(2, 2).repeat_interleave(2, 3)
    torch.testing.assert_close(corrupted(images, "pixelate", 5), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("side", [27, 28, 32, 64])
def test_pixelate_is_pillows_box_filter(side):
    images = colour(2, side, 1, torch.float32)
    for severity in range(1, SEVERITIES + 1):
        small = int(side * strength("pixelate", severity, side, side))
        found = corrupted(images, "pixelate", severity)
        for image, other in zip(images, found, strict=True):
            picture = Image.fromarray(image[0].numpy())
            expected = picture.resize((small, small), Image.Resampling.BOX).resize((side, side), Image.Resampling.BOX)
            torch.testing.assert_close(other[0], torch.from_numpy(np.array(expected)), rtol=0, atol=1e-6)


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_jpeg_is_pillows(channels):
    images = colour(3, 28, channels, torch.float32)
    found = corrupted(images, "jpeg", 4)
    for image, other in zip(images, found, strict=True):
        bytes_ = (image * 255).round().byte().permute(1, 2, 0).numpy()
        planes = [bytes_] if channels == 3 else [bytes_[:, :, c] for c in range(channels)]
        decoded = []
        for plane in planes:
            buffer = io.BytesIO()
            Image.fromarray(plane).save(buffer, "JPEG", quality=50)
            decoded.append(np.asarray(Image.open(buffer)).reshape(28, 28, -1))
        expected = torch.from_numpy(np.concatenate(decoded, 2)).permute(2, 0, 1).float() / 255
        assert torch.equal(other, expected)
    assert not torch.equal(found, images)


def test_gaussian_noise_has_its_standard_deviation():
    """Over n values the sample deviation has standard error sigma / sqrt(2 n); five of them: 6e-7 of errors."""
    images = torch.full((20, 3, 32, 32), 0.5, dtype=torch.float64)
    for severity, sigma in enumerate((0.04, 0.06, 0.08, 0.09, 0.10), 1):  # the box is five deviations away
        noise = corrupted(images, "gaussian_noise", severity) - images
        assert abs(float(noise.std()) - sigma) < 5 * sigma / math.sqrt(2 * noise.numel())
        assert abs(float(noise.mean())) < 5 * sigma / math.sqrt(noise.numel())


def test_impulse_noise_strikes_its_share_half_up_half_down():
    """Binomial counts within five standard errors: 6e-7 of errors each."""
    images = torch.full((20, 3, 32, 32), 0.5)
    found = corrupted(images, "impulse_noise", 5)
    for value in (0.0, 1.0):
        share = float((found == value).double().mean())
        assert abs(share - 0.035) < 5 * math.sqrt(0.035 * 0.965 / images.numel())
    assert bool(((found == 0) | (found == 1) | (found == 0.5)).all())


def test_shot_noise_has_the_mean_and_variance_of_photons():
    """Mean x, variance x / c, whose relative error over n = 61 440 counts is sqrt(2 / n) = 0.6 %; five of them."""
    images = torch.full((20, 3, 32, 32), 0.5, dtype=torch.float64)
    noise = corrupted(images, "shot_noise", 1)
    assert abs(float(noise.mean()) - 0.5) < 5 * math.sqrt(0.5 / 500 / noise.numel())
    assert abs(float(noise.var()) / (0.5 / 500) - 1) < 5 * math.sqrt(2 / noise.numel())
    assert torch.equal(noise * 500, (noise * 500).round())
    assert (corrupted(torch.zeros_like(images), "shot_noise", 5) == 0).all()


@given(rate=st.floats(0, 600), uniform=st.floats(2**-53, 1 - 2**-53))
@settings(max_examples=200, deadline=None)
def test_poisson_quantiles_are_scipys(rate, uniform):
    one = torch.tensor([[rate], [uniform]], dtype=torch.float64)
    found = float(poisson(one[0], one[1]))
    assert special.pdtr(found, rate) >= uniform - 1e-10
    assert found == 0 or special.pdtr(found - 1, rate) <= uniform + 1e-10


def test_gaussian_blur_is_scipys():
    images = colour()
    expected = ndimage.gaussian_filter(images.numpy(), (0, 0, 0.7, 0.7), mode="nearest", truncate=4.0)
    torch.testing.assert_close(corrupted(images, "gaussian_blur", 3), torch.from_numpy(expected), rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", ["gaussian_blur", "motion_blur", "defocus_blur"])
def test_blurs_leave_a_flat_image_and_keep_the_light_of_a_spot(kind):
    flat = torch.full((3, 1, 64, 64), 0.3, dtype=torch.float64)
    torch.testing.assert_close(corrupted(flat, kind, 5), flat, rtol=0, atol=1e-12)
    spot = torch.zeros(3, 1, 64, 64, dtype=torch.float64)
    spot[:, :, 32, 32] = 1
    found = corrupted(spot, kind, 5)
    torch.testing.assert_close(found.sum((1, 2, 3)), torch.ones(3, dtype=torch.float64), rtol=0, atol=1e-12)
    assert (found.amax((1, 2, 3)) < 0.6).all()


def test_defocus_of_radius_one_is_the_cross_of_five():
    """At severity 4 the edge is hardly softened: exp(-1 / (2 0.2^2)) = 4e-6 of the weight moves."""
    spot = torch.zeros(1, 1, 32, 32, dtype=torch.float64)
    spot[:, :, 16, 16] = 1
    found = corrupted(spot, "defocus_blur", 4)
    cross = torch.zeros_like(spot)
    for row, column in ((16, 16), (15, 16), (17, 16), (16, 15), (16, 17)):
        cross[:, :, row, column] = 0.2
    torch.testing.assert_close(found, cross, rtol=0, atol=1e-5)


def test_motion_blur_is_a_one_sided_gaussian_along_the_angle_of_each_image():
    spot = torch.zeros(3, 1, 41, 41, dtype=torch.float64)
    spot[:, :, 20, 20] = 1
    streams = Streams(5, range(3))
    found = motion_blur(spot, streams, (6, 2.0))
    weights = torch.exp(-torch.arange(13, dtype=torch.float64).square() / 8)
    weights = weights / weights.sum()
    for image, uniform in zip(found, streams.uniform((), torch.float64).tolist(), strict=True):
        expected = torch.zeros(41, 41, dtype=torch.float64)
        angle = math.pi / 2 * (uniform - 0.5)
        for tap, weight in enumerate(weights):
            expected[20 - round(tap * math.sin(angle)), 20 - round(tap * math.cos(angle))] += weight
        torch.testing.assert_close(image[0], expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", ["contrast", "jpeg", "gaussian_noise", "brightness"])
def test_another_box_is_the_unit_box_in_other_units(kind):
    pixels = colour(dtype=torch.float32)
    expected = corrupted(pixels, kind, 3) * 4 - 1
    found = corrupted(pixels * 4 - 1, kind, 3, ThreatModel("l2", 0.5, (-1, 3)))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    assert found.min() >= -1
    assert found.max() <= 3


@every_kind
@pytest.mark.parametrize("side", [5, 8])
def test_tiny_and_oblong_images_work(kind, side):
    images = torch.rand(2, 1, side, 2 * side + 1)
    assert corrupted(images, kind, 5).shape == images.shape


def test_strengths_follow_the_size_of_the_images():
    assert [strength("gaussian_noise", 5, side, side) for side in (8, 28, 32, 45)] == [0.10] * 4
    assert [strength("gaussian_noise", 5, side, side) for side in (46, 64, 96)] == [0.18] * 3
    assert [strength("gaussian_noise", 5, side, side) for side in (128, 224, 299)] == [0.38] * 3


def mean_model(level=0.5):
    """Two classes by the mean of all pixels: class 1 where it lies above the level."""
    return lambda images: torch.stack([torch.full_like(m := images.mean((1, 2, 3)), level), m], dim=1)


def test_an_image_is_broken_at_the_mildest_severity_that_misleads():
    """Grey images of value v cross the level 0.5 exactly where v + shift does."""
    values = torch.tensor([0.6, 0.47, 0.37, 0.23, 0.1], dtype=torch.float64)
    images = values.view(-1, 1, 1, 1).expand(-1, 1, 28, 28).clone()
    labels = torch.zeros(5, dtype=torch.int64)
    found = Corruption(THREAT, kind="brightness")(mean_model(), images, labels)
    shifts = [0.0, 0.05, 0.15, 0.3, 0.0]  # wrong already; severities 1, 3, 5; never
    torch.testing.assert_close(found - images, torch.tensor(shifts).view(-1, 1, 1, 1).expand_as(images).double())
    for severity, broken in ((1, [1]), (2, [1]), (3, [1, 2]), (4, [1, 2]), (5, [1, 2, 3])):
        one = Corruption(THREAT, kind="brightness", severity=severity)(mean_model(), images, labels)
        assert (one != images).flatten(1).any(1).nonzero().flatten().tolist() == broken


@every_kind
def test_float64_results_do_not_depend_on_batch_size_or_order(kind):
    torch.manual_seed(1)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(4 * 26 * 26, 5)).double().eval()
    images = colour(15, 28)
    with torch.no_grad():
        labels = model(images).argmax(1)
    labels[:3] = (labels[:3] + 1) % 5
    attack, index = Corruption(THREAT, kind=kind), torch.arange(15) * 7
    whole = attack(model, images, labels, Streams(2, index))
    again = torch.empty_like(whole)
    for part in torch.randperm(15, generator=torch.Generator().manual_seed(2)).split(4):
        again[part] = attack(model, images[part], labels[part], Streams(2, index[part]))
    torch.testing.assert_close(again, whole, rtol=0, atol=1e-12)
    assert torch.equal(whole[:3], images[:3])


@every_kind
def test_autocast_around_the_call_changes_no_pixel(kind):
    images = colour(4, dtype=torch.float32)
    expected = corrupted(images, kind, 3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = corrupted(images, kind, 3)
    assert found.dtype == torch.float32
    assert torch.equal(found, expected)


def test_a_judge_of_its_own_is_asked_and_the_surrogate_is_not():
    images = torch.full((3, 1, 8, 8), 0.45)

    def silent(images):
        raise AssertionError("asked")

    found = Corruption(THREAT, kind="brightness")(
        silent, images, torch.zeros(3, dtype=torch.int64), judge=lambda x, labels, streams: x.mean((1, 2, 3)) > 0.5
    )
    torch.testing.assert_close(found, images + 0.1)


def test_settings_say_what_bounds_the_attack():
    attack = Corruption(ThreatModel("l2", 0.5, (-1, 1)), kind="jpeg", severity=2)
    assert attack.threat == ThreatModel("linf", 2.0, (-1, 1))
    assert attack.name == "jpeg-2"
    found = json.loads(json.dumps(attack.settings()))
    assert found == attack.settings()
    assert (found["kind"], found["corruption"], found["severity"]) == ("corruption", "jpeg", 2)
    assert found["bound"] == "jpeg at severity 2 of 5"
    assert attack.at(ThreatModel("l1", 3, (-1, 1))) == attack
    assert Corruption(THREAT, kind="jpeg").settings()["bound"] == "jpeg at any severity of 5"


@pytest.mark.parametrize("severity", [0, 6, True, 2.0, "mild", None])
def test_wrong_settings_are_input_errors(severity):
    with pytest.raises(InputError, match="severity"):
        Corruption(THREAT, kind="jpeg", severity=severity)
    with pytest.raises(InputError, match="did you mean 'contrast'"):
        Corruption(THREAT, kind="contrats")
    with pytest.raises(InputError, match="threat"):
        Corruption("linf", kind="jpeg")
