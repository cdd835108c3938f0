"""Validation splits: chosen from the training images, never from the test split."""

from __future__ import annotations

import torch

from deconfound.core.protocols import ImageSource
from deconfound.errors import require

LARGEST_SHARE = 10  # validation takes at most one image in ten


def carve_validation(source: ImageSource, size: int, seed: int) -> tuple[ImageSource, ImageSource]:
    """Two disjoint parts (train, validation) that together are the source, drawn by ``seed`` and nothing else.

    Validation gets ``min(size, N // 10)`` images, uniformly without replacement; both parts stay in source order and
    keep the original indices.

    Raises:
        InputError: ``size`` below 1, or a source of fewer than ten images.
    """
    require(size >= 1, "validation size", size, "at least 1")
    count = len(source)
    require(
        count >= LARGEST_SHARE,
        "validation",
        f"{count} images",
        f"at least {LARGEST_SHARE} images to carve from (or selection.size=0 with selection.keep=last)",
    )
    taken = min(size, count // LARGEST_SHARE)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    return source.subset(order[taken:].sort().values), source.subset(order[:taken].sort().values)
