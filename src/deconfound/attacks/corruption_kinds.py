"""Common corruptions as functions of pixels, and how strong each one is at five severities.

Shapes: B examples, C channels; pixels (B, C, H, W) in [0, 1]. Each function returns pixels of the same shape and type,
not yet clipped, and takes its random numbers from streams of the examples alone.

Source: Hendrycks & Dietterich 2019, "Benchmarking neural network robustness to common corruptions and perturbations",
with the constants of the data sets that the authors published.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from deconfound.core.streams import Streams

SEVERITIES = 5

# Where the Gaussian kernel is cut off, in standard deviations.
TRUNCATE = 4.0

# Poisson counts of rate 0 are 0; this keeps the steps between neighbouring counts defined.
_TINY_RATE = 1e-12


def gaussian_noise(pixels: Tensor, streams: Streams, scale: float) -> Tensor:
    """White noise: x + scale n with n standard normal."""
    return pixels + scale * streams.normal(tuple(pixels.shape[1:]), pixels.dtype)


def shot_noise(pixels: Tensor, streams: Streams, photons: float) -> Tensor:
    """Poisson(photons x) / photons: fewer photons, more noise."""
    uniform = streams.uniform(tuple(pixels.shape[1:]), torch.float64)
    return (poisson(photons * pixels.double(), uniform) / photons).to(pixels.dtype)


def poisson(rates: Tensor, uniform: Tensor) -> Tensor:
    """The smallest k with P(X <= k) >= u for X ~ Poisson(rate), elementwise in double precision.

    The search starts at the Cornish-Fisher quantile r + z sqrt(r) + (z^2 - 1) / 6 and steps to the neighbours; so a
    draw is a function of its own rate and uniform number alone.

    >>> poisson(torch.tensor([0.5, 0.5], dtype=torch.float64), torch.tensor([0.6, 0.7], dtype=torch.float64)).tolist()
    [0.0, 1.0]
    """
    rates = rates.clamp_min(_TINY_RATE)
    z = math.sqrt(2) * torch.erfinv(2 * uniform - 1)
    count = (rates + z * rates.sqrt() + (z.square() - 1) / 6).floor().clamp_min(0)
    below = torch.special.gammaincc(count + 1, rates)
    mass = (torch.xlogy(count, rates) - rates - torch.lgamma(count + 1)).exp()
    while bool((short := below < uniform).any()):
        count = torch.where(short, count + 1, count)
        mass = torch.where(short, mass * rates / count.clamp_min(1), mass)
        below = torch.where(short, below + mass, below)
        if not bool((mass[short] > 0).any()):  # a tail that double precision does not resolve
            break
    while bool((far := (below - mass >= uniform) & (count > 0)).any()):
        below = torch.where(far, below - mass, below)
        mass = torch.where(far, mass * count / rates, mass)
        count = torch.where(far, count - 1, count)
    return count


def impulse_noise(pixels: Tensor, streams: Streams, share: float) -> Tensor:
    """A share of all values, each channel for itself, becomes 0 or 1 with equal probability."""
    uniform = streams.uniform(tuple(pixels.shape[1:]), pixels.dtype)
    struck = torch.where(uniform < share / 2, 0.0, 1.0).to(pixels.dtype)
    return torch.where(uniform < share, struck, pixels)


def gaussian_blur(pixels: Tensor, streams: Streams, sigma: float) -> Tensor:
    """Convolution with a Gaussian, one axis after the other; beyond the border the border's pixel goes on."""
    radius = int(TRUNCATE * sigma + 0.5)
    line = _bell(radius, sigma, pixels)
    padded = F.pad(pixels, (radius,) * 4, mode="replicate")
    return _filtered(_filtered(padded, line[:, None]), line[None, :])


def defocus_blur(pixels: Tensor, streams: Streams, shape: tuple[float, float]) -> Tensor:
    """Convolution with a disk of ``shape[0]`` pixels radius, its edge softened by a Gaussian of ``shape[1]``.

    The authors mirror the image at the border; here the border's pixel goes on, which needs no image larger than the
    kernel.
    """
    radius, softness = shape
    reach = math.ceil(radius)
    steps = torch.arange(-reach, reach + 1, dtype=pixels.dtype, device=pixels.device)
    disk = (steps.square()[:, None] + steps.square()[None, :] <= radius**2).to(pixels.dtype)
    edge = 1 if radius <= 8 else 2
    line = _bell(edge, softness, pixels)
    kernel = F.conv2d(F.pad(disk / disk.sum(), (2 * edge,) * 4)[None, None], (line[:, None] * line)[None, None])[0, 0]
    return _filtered(F.pad(pixels, (reach + edge,) * 4, mode="replicate"), kernel)


def motion_blur(pixels: Tensor, streams: Streams, shape: tuple[float, float]) -> Tensor:
    """A one-sided Gaussian trail: 2 r + 1 taps exp(-i^2 / 2 sigma^2) along one angle per image, (r, sigma) = ``shape``.

    The angle is uniform in [-45, 45] degrees; every tap reads the nearest pixel.
    """
    radius, sigma = int(shape[0]), shape[1]
    taps = torch.arange(2 * radius + 1, dtype=torch.float64, device=pixels.device)
    weights = torch.exp(-taps.square() / (2 * sigma**2))
    angle = math.pi / 2 * (streams.uniform((), torch.float64) - 0.5)
    down = (taps * angle.sin()[:, None]).round().long()
    right = (taps * angle.cos()[:, None]).round().long()
    height, width = pixels.shape[2:]
    image = torch.arange(len(pixels), device=pixels.device)[:, None, None]
    row = torch.arange(height, device=pixels.device)[None, :, None]
    column = torch.arange(width, device=pixels.device)[None, None, :]
    last, total = pixels.permute(0, 2, 3, 1), torch.zeros_like(pixels).permute(0, 2, 3, 1)
    for tap, weight in enumerate((weights / weights.sum()).tolist()):
        reads = (row + down[:, tap, None, None]).clamp(0, height - 1), (column + right[:, tap, None, None])
        total = total + weight * last[image, reads[0], reads[1].clamp(0, width - 1)]
    return total.permute(0, 3, 1, 2)


def contrast(pixels: Tensor, streams: Streams, factor: float) -> Tensor:
    """Towards the mean: m + factor (x - m) with m the mean of each channel of each image."""
    mean = pixels.mean(dim=(2, 3), keepdim=True)
    return mean + factor * (pixels - mean)


def brightness(pixels: Tensor, streams: Streams, shift: float) -> Tensor:
    """The value of HSV moves: v = max over channels becomes min(v + shift, 1), hue and saturation stay.

    So x becomes x v' / v, and black becomes grey v'. With one channel this is min(x + shift, 1).
    """
    value = pixels.amax(dim=1, keepdim=True)
    brighter = (value + shift).clamp_max(1)
    return torch.where(value > 0, pixels * (brighter / value.clamp_min(torch.finfo(pixels.dtype).tiny)), brighter)


def jpeg(pixels: Tensor, streams: Streams, quality: float) -> Tensor:
    """Through 8 bits per value and Pillow's JPEG of this quality, image by image.

    One and three channels are grey and RGB images; of any other number each channel is a grey image of its own.
    """
    rounded = pixels.clamp(0, 1).mul(255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    decoded = np.stack([_compressed(image, int(quality)) for image in rounded])
    return torch.from_numpy(decoded).permute(0, 3, 1, 2).to(pixels) / 255


def _compressed(image: np.ndarray[Any, Any], quality: int) -> np.ndarray[Any, Any]:
    """One image (H, W, C) uint8 through JPEG."""
    if image.shape[2] not in (1, 3):
        planes = [_compressed(image[:, :, [channel]], quality) for channel in range(image.shape[2])]
        return np.concatenate(planes, axis=2)
    buffer = io.BytesIO()
    Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image).save(buffer, "JPEG", quality=quality)
    return np.array(Image.open(buffer)).reshape(image.shape)


def pixelate(pixels: Tensor, streams: Streams, factor: float) -> Tensor:
    """Down to int(factor side) pixels a side, each the mean of the pixels it covers, and up again by repetition.

    At factors 1 / n these are the means of blocks of n pixels.
    """
    small = pixels
    for axis in (2, 3):
        side = pixels.shape[axis]
        blocks = max(1, int(side * factor))
        # Twice the place of each centre in units of blocks, in whole numbers; a centre on an edge belongs to the left
        # block on the way down and reads the right one on the way up, as in Pillow's box filter.
        place = (2 * torch.arange(side, device=pixels.device) + 1) * blocks
        member = F.one_hot((place - 1) // (2 * side), blocks).to(pixels.dtype)
        means = (member / member.sum(dim=0)).t()
        back = F.one_hot(place // (2 * side), blocks).to(pixels.dtype)
        small = torch.movedim((back @ means) @ torch.movedim(small, axis, 2), 2, axis)
    return small


def _bell(radius: int, sigma: float, like: Tensor) -> Tensor:
    """Normalised Gaussian weights at -radius..radius."""
    steps = torch.arange(-radius, radius + 1, dtype=torch.float64, device=like.device)
    weights = torch.exp(-steps.square() / (2 * sigma**2))
    return (weights / weights.sum()).to(like.dtype)


def _filtered(padded: Tensor, kernel: Tensor) -> Tensor:
    """Every channel of padded pixels with the same kernel."""
    flat = padded.flatten(0, 1)[:, None]
    found = F.conv2d(flat, kernel[None, None])
    return found.view(*padded.shape[:2], *found.shape[2:])


Corrupt = Callable[[Tensor, Streams, Any], Tensor]

KINDS: Mapping[str, Corrupt] = MappingProxyType(
    {
        "gaussian_noise": gaussian_noise,
        "shot_noise": shot_noise,
        "impulse_noise": impulse_noise,
        "gaussian_blur": gaussian_blur,
        "motion_blur": motion_blur,
        "defocus_blur": defocus_blur,
        "contrast": contrast,
        "brightness": brightness,
        "jpeg": jpeg,
        "pixelate": pixelate,
    }
)

# CIFAR-10-C, Tiny-ImageNet-C and ImageNet-C: the strengths for images near 32, 64 and 224 pixels a side.
_STRENGTHS: Mapping[int, Mapping[str, tuple[Any, ...]]] = {
    32: {
        "gaussian_noise": (0.04, 0.06, 0.08, 0.09, 0.10),
        "shot_noise": (500, 250, 100, 75, 50),
        "impulse_noise": (0.01, 0.02, 0.03, 0.05, 0.07),
        "gaussian_blur": (0.4, 0.6, 0.7, 0.8, 1.0),
        "motion_blur": ((6, 1.0), (6, 1.5), (6, 2.0), (8, 2.0), (9, 2.5)),
        "defocus_blur": ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1.0, 0.2), (1.5, 0.1)),
        "contrast": (0.75, 0.5, 0.4, 0.3, 0.15),
        "brightness": (0.05, 0.1, 0.15, 0.2, 0.3),
        "jpeg": (80, 65, 58, 50, 40),
        "pixelate": (0.95, 0.9, 0.85, 0.75, 0.65),
    },
    64: {
        "gaussian_noise": (0.04, 0.08, 0.12, 0.15, 0.18),
        "shot_noise": (250, 100, 50, 30, 15),
        "impulse_noise": (0.01, 0.02, 0.05, 0.08, 0.14),
        "gaussian_blur": (0.5, 0.75, 1.0, 1.25, 1.5),
        "motion_blur": ((10, 1.0), (10, 1.5), (10, 2.0), (10, 2.5), (12, 3.0)),
        "defocus_blur": ((0.5, 0.6), (1.0, 0.1), (1.5, 0.1), (2.5, 0.01), (3.0, 0.1)),
        "contrast": (0.4, 0.3, 0.2, 0.1, 0.05),
        "brightness": (0.1, 0.2, 0.3, 0.4, 0.5),
        "jpeg": (65, 58, 50, 40, 25),
        "pixelate": (0.9, 0.8, 0.7, 0.6, 0.5),
    },
    224: {
        "gaussian_noise": (0.08, 0.12, 0.18, 0.26, 0.38),
        "shot_noise": (60, 25, 12, 5, 3),
        "impulse_noise": (0.03, 0.06, 0.09, 0.17, 0.27),
        "gaussian_blur": (1.0, 2.0, 3.0, 4.0, 6.0),
        "motion_blur": ((10, 3.0), (15, 5.0), (15, 8.0), (15, 12.0), (20, 15.0)),
        "defocus_blur": ((3.0, 0.1), (4.0, 0.5), (6.0, 0.5), (8.0, 0.5), (10.0, 0.5)),
        "contrast": (0.4, 0.3, 0.2, 0.1, 0.05),
        "brightness": (0.1, 0.2, 0.3, 0.4, 0.5),
        "jpeg": (25, 18, 15, 10, 7),
        "pixelate": (0.6, 0.5, 0.4, 0.3, 0.25),
    },
}


def strength(kind: str, severity: int, height: int, width: int) -> Any:
    """The constant of a corruption for images of this size: that of the published set nearest in size, by ratio.

    >>> strength("contrast", 1, 28, 28), strength("contrast", 1, 64, 64)
    (0.75, 0.4)
    """
    side = math.sqrt(height * width)
    nearest = min(_STRENGTHS, key=lambda nominal: abs(math.log(side / nominal)))
    return _STRENGTHS[nearest][kind][severity - 1]
