"""Rotations and translations of images.

Shapes: B examples; pixels (B, C, H, W), degrees and shifts (B,).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def transformed(pixels: Tensor, degrees: Tensor, down: Tensor | None = None, right: Tensor | None = None) -> Tensor:
    """Each image turned anticlockwise about its centre, then moved; what comes from outside is 0.

    Bilinear interpolation at p = R^-1 (q - t) for every pixel centre q of the result, p and q in pixels from the
    centre, so that images that are not square keep their proportions.

    Args:
        pixels: (B, C, H, W).
        degrees: angles (B,).
        down: shifts as shares of the height (B,); none by default.
        right: shifts as shares of the width (B,); none by default.

    Returns:
        (B, C, H, W).

    >>> square = torch.arange(4.0, dtype=torch.float64).view(1, 1, 2, 2)
    >>> transformed(square, torch.full((1,), 90.0)).round().flatten().tolist()
    [1.0, 3.0, 0.0, 2.0]
    """
    height, width = pixels.shape[2:]
    angle = torch.deg2rad(degrees.to(pixels))
    cos, sin = angle.cos(), angle.sin()
    across, along = -sin * (height / width), sin * (width / height)
    x, y = (torch.zeros_like(cos) if shift is None else 2 * shift.to(pixels) for shift in (right, down))
    # The axes of affine_grid run from -1 to 1, x first.
    rows = [cos, across, -(cos * x + across * y), along, cos, -(along * x + cos * y)]
    grid = F.affine_grid(torch.stack(rows, dim=1).view(-1, 2, 3), list(pixels.shape), align_corners=False)
    return F.grid_sample(pixels, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
