"""The handwritten digits that come with scikit-learn: real data that needs no download.

Shapes: N images (N, 1, 16, 16) uint8, labels (N,) int64.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

TEST_SIZE = 360  # the last fifth, in the order the bundle has
SIDE = 16
CLASS_NAMES = tuple(str(digit) for digit in range(10))


def digits() -> dict[str, tuple[Tensor, Tensor, tuple[str, ...]]]:
    """The 1797 digits as ``train`` (the first 1437) and ``test`` (the last 360).

    The 8x8 images with levels 0..16 become 16x16 by bilinear interpolation (pixel centres, no corner alignment),
    scaled to 0..255 and rounded: uint8.

    Source: Alpaydin & Kaynak 1998, "Optical Recognition of Handwritten Digits" (UCI), test part.

    >>> {split: tuple(images.shape) for split, (images, _, _) in digits().items()}
    {'train': (1437, 1, 16, 16), 'test': (360, 1, 16, 16)}
    """
    from sklearn.datasets import load_digits

    bundle = load_digits()
    levels = torch.from_numpy(bundle.images).to(torch.float64).unsqueeze(1) / 16
    larger = F.interpolate(levels, size=(SIDE, SIDE), mode="bilinear", align_corners=False)
    images = (larger * 255).round().to(torch.uint8)
    labels = torch.from_numpy(bundle.target).to(torch.int64)
    first = len(labels) - TEST_SIZE
    return {
        "train": (images[:first], labels[:first], CLASS_NAMES),
        "test": (images[first:], labels[first:], CLASS_NAMES),
    }
