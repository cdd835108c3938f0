"""Input checks: each failure is one line that names the field, the value and the rule.

Shapes: B examples, C channels, K classes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from deconfound.errors import InputError, require

ROUNDING = 1e-5
"""What undoing a normalisation leaves outside [0, 1] in float32, and nothing else does."""


def check_images(images: Tensor, channels: int | None = None, field: str = "images") -> None:
    """Images are a non-empty float tensor (B, C, H, W), finite and within [0, 1].

    Raises:
        InputError: wrong type, rank, emptiness, NaN or infinity, values outside [0, 1], wrong channel count.
    """
    rule = "a float tensor of shape (B, C, H, W) with values in [0, 1]"
    require(isinstance(images, Tensor), field, type(images).__name__, rule)
    bytes_too = "; of bytes: images.float() / 255" if images.dtype == torch.uint8 else ""
    require(images.is_floating_point(), field, f"dtype {images.dtype}".replace("torch.", ""), rule + bytes_too)
    require(images.ndim == 4, field, tuple(images.shape), rule)
    require(images.numel() > 0, field, tuple(images.shape), "at least one image")
    if channels is not None and images.shape[1] != channels:
        raise InputError(field, f"{images.shape[1]} channels", f"{channels} channels")
    low, high = (float(v) for v in torch.aminmax(images))  # NaN and infinity surface in the extremes
    if not (torch.isfinite(torch.tensor([low, high])).all()):
        bad = int((~torch.isfinite(images).flatten(1).all(dim=1)).nonzero()[0])
        raise InputError(field, f"NaN or infinite pixels in image {bad}", "finite values")
    if low < 0 or high > 1:
        advice = "raw pixels in [0, 1]; divide by 255, and leave normalisation to the model"
        if low > -ROUNDING and high < 1 + ROUNDING:
            advice = "values in [0, 1]; these are off by rounding: images.clamp(0, 1)"
        raise InputError(field, f"values from {low:.4g} to {high:.4g}", advice)


def check_labels(labels: Tensor, classes: int, count: int | None = None, field: str = "labels") -> None:
    """Labels are int64 (B,) within 0..K-1, as many as images.

    Raises:
        InputError: wrong type, shape or count, a label outside the range.
    """
    require(isinstance(labels, Tensor), field, type(labels).__name__, "an int64 tensor of shape (B,)")
    require(labels.dtype == torch.int64, field, f"dtype {labels.dtype}".replace("torch.", ""), "dtype int64")
    require(labels.ndim == 1, field, tuple(labels.shape), "shape (B,)")
    if count is not None and len(labels) != count:
        raise InputError(field, f"{len(labels)} labels", f"one label for each of the {count} images")
    if len(labels):
        low, high = (int(v) for v in torch.aminmax(labels))
        if low < 0 or high >= classes:
            raise InputError(field, low if low < 0 else high, f"labels within 0..{classes - 1} for {classes} classes")


def check_logits(logits: Tensor, count: int, field: str = "model") -> int:
    """A model's output is (B, K) with K >= 2; returns K.

    Raises:
        InputError: another shape or a single class.
    """
    shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
    rule = f"logits of shape ({count}, K) with K of at least 2"
    require(isinstance(logits, Tensor) and logits.ndim == 2, field, f"output {shape}", rule)
    require(logits.shape[0] == count and logits.shape[1] >= 2, field, f"output {shape}", rule)
    return logits.shape[1]
