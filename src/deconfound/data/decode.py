"""From the bytes of an image file to pixels.

Shapes: one image is (C, H, W) uint8 with C = 1 (grey) or 3 (RGB).
"""

from __future__ import annotations

import io
import warnings

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from deconfound.errors import InputError

Pixels = NDArray[np.uint8]

_GREY = frozenset({"1", "L", "LA", "La"})
_DEEP = ("I", "F")  # beginnings of the modes with more than eight bits: I, I;16, I;16B, F
_ROTATED = frozenset({"JPEG", "MPO"})  # formats whose cameras store the rotation apart from the pixels


def decode(data: bytes, place: str, size: int | None = None) -> Pixels:
    """The pixels of one encoded image, grey as one channel and everything else as RGB (transparency is dropped).

    With ``size`` the shorter side is brought to it (bilinear with antialiasing) and the centre square cut out.

    Args:
        data: an image file's contents.
        place: where they came from, for the message.
        size: side of the square wanted.

    Raises:
        InputError: the bytes are not a whole image, or it has more than eight bits a channel.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a damaged header warns first; the error below says enough
            image: Image.Image = Image.open(io.BytesIO(data))
            if image.format in _ROTATED:
                image = ImageOps.exif_transpose(image)
            mode = image.mode
            image = image.convert("L" if mode in _GREY else "RGB")
    except Exception as error:  # PIL raises OSError, SyntaxError, ValueError, struct.error, ...
        raise _unreadable(place, error) from None
    if mode.startswith(_DEEP):
        raise InputError("image", place, f"an image of 8 bits a channel, not mode {mode}; convert the data first")
    if size is not None:
        image = _square(image, size)
    pixels = np.asarray(image, dtype=np.uint8)
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def is_grey(data: bytes, place: str) -> bool:
    """Whether an encoded image will have one channel; only its head is read.

    Raises:
        InputError: the bytes are no image.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return Image.open(io.BytesIO(data)).mode in _GREY
    except Exception as error:
        raise _unreadable(place, error) from None


def _unreadable(place: str, error: Exception) -> InputError:
    reason = str(error).split("<")[0].strip().rstrip(".") or type(error).__name__
    return InputError("image", place, f"a readable image file ({reason})")


def _square(image: Image.Image, size: int) -> Image.Image:
    width, height = image.size
    scale = size / min(width, height)
    wide, high = max(size, round(width * scale)), max(size, round(height * scale))
    if (wide, high) != (width, height):
        image = image.resize((wide, high), Image.Resampling.BILINEAR)
    left, top = (wide - size) // 2, (high - size) // 2
    return image.crop((left, top, left + size, top + size))


def fit_channels(pixels: Pixels, channels: int, place: str) -> Pixels:
    """Grey repeated to three channels where three are wanted.

    Raises:
        InputError: a colour image where one channel is wanted.
    """
    if pixels.shape[0] == channels:
        return pixels
    if pixels.shape[0] == 1 and channels == 3:
        return np.repeat(pixels, 3, axis=0)
    raise InputError("channels", channels, f"3, because {place} is in colour")


RESIZING = "to resize and crop to NxN: --set image_size=N to train, --image-size N to evaluate, size=N in Python"
"""How images of several sizes come to one."""


def same_size(pixels: Pixels, place: str, height: int, width: int, other: str) -> None:
    """Refuse an image whose size is not that of another one.

    Raises:
        InputError: naming both images and the remedy.
    """
    if pixels.shape[1:] != (height, width):
        mine, theirs = f"{pixels.shape[1]}x{pixels.shape[2]} ({place})", f"{height}x{width} ({other})"
        raise InputError("image sizes", f"{mine} and {theirs}", f"one size; {RESIZING}")
