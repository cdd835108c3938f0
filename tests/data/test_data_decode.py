"""Decoding: modes, orientation, resizing, damage."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from deconfound.data.decode import decode
from deconfound.errors import InputError


def encoded(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("mode", "channels"), [("1", 1), ("L", 1), ("LA", 1), ("P", 3), ("RGB", 3), ("RGBA", 3), ("CMYK", 3)]
)
def test_grey_is_one_channel_and_all_else_three(pixels, mode, channels):
    image = Image.fromarray(pixels(0)).convert(mode)
    found = decode(encoded(image, "TIFF" if mode == "CMYK" else "PNG"), "here")
    assert found.shape == (channels, 8, 8)
    assert found.dtype == np.uint8


def test_pixels_are_exact(pixels):
    values = pixels(5, 3, 4, 9)
    assert np.array_equal(decode(encoded(Image.fromarray(values)), "here"), values.transpose(2, 0, 1))
    assert np.array_equal(decode(encoded(Image.fromarray(values), "WEBP", lossless=True), "here")[1], values[..., 1])


def test_a_photograph_is_turned_as_its_camera_was():
    image = Image.new("RGB", (16, 8))
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    assert decode(encoded(image, "JPEG", exif=exif), "here").shape == (3, 16, 8)


@pytest.mark.parametrize(("height", "width"), [(6, 12), (12, 6), (6, 6), (7, 31), (3, 5)])
def test_size_keeps_proportions_and_the_centre(height, width):
    values = np.zeros((height, width), dtype=np.uint8)
    values[height // 2 - (height % 2 == 0) : height // 2 + 1, width // 2 - (width % 2 == 0) : width // 2 + 1] = 255
    found = decode(encoded(Image.fromarray(values)), "here", size=6)[0].astype(float)
    assert found.shape == (6, 6)
    places = np.arange(6) + 0.5
    assert (found.sum(1) * places).sum() / found.sum() == pytest.approx(3, abs=0.51)
    assert (found.sum(0) * places).sum() / found.sum() == pytest.approx(3, abs=0.51)


def test_a_square_of_the_right_size_is_not_resampled(pixels):
    values = pixels(2, 1, 8, 12)
    assert np.array_equal(decode(encoded(Image.fromarray(values)), "here", size=8)[0], values[:, 2:10])


@pytest.mark.parametrize("damage", [b"", b"plain text", "cut", "head"])
def test_damage_is_one_line_with_the_place(pixels, damage):
    whole = encoded(Image.fromarray(pixels(0, 3, 64, 64)))
    data = {"cut": whole[:500], "head": whole[:20]}.get(damage, damage)
    with pytest.raises(InputError) as caught:
        decode(data, "cats/7.png")
    assert caught.value.value == "cats/7.png"
    assert "\n" not in str(caught.value)
    assert "0x" not in str(caught.value)


def test_more_than_eight_bits_are_refused():
    deep = Image.fromarray(np.full((4, 4), 40000, dtype=np.uint16))
    with pytest.raises(InputError, match="8 bits"):
        decode(encoded(deep), "here")
