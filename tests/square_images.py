"""What tests of the Square attack share: radii, and images that no ball of them carries out of the box."""

from __future__ import annotations

import torch

EPS = {"linf": 0.1, "l2": 0.5, "l1": 2.0}


def interior(count=12, channels=1, size=6, dtype=torch.float64):
    """Images so far from 0 and 1 that no ball of the test touches the box."""
    generator = torch.Generator().manual_seed(1)
    return 0.4 + 0.2 * torch.rand(count, channels, size, size, generator=generator, dtype=dtype)
