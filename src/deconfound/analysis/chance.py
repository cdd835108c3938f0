"""What correlations independence leaves over some images: those of content with the style of other images.

Shapes: N images, K classes, d features; content (N, K), style (N, d).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from deconfound.analysis.correlations import sides, summary
from deconfound.functional.hashing import name_key
from deconfound.records import Correlations

SHUFFLES = 199
"""With the observed order 200, of which 5 % is a whole number."""
LEVEL = 0.05


def chance_correlations(content: Tensor, style: Tensor, seed: int = 0) -> Correlations:
    """What each figure of ``measured_correlations`` stays within, but for 5 % of all cases, where nothing is related.

    The 190th smallest of each over 199 shuffles of the images of content. If content and style are independent all
    orders are alike, so a figure lies above it with probability at most 10 / 200, for any distribution of either. The
    largest of many correlations is far above the 1 / sqrt(N) of a single one.

    Args:
        content: (N, K).
        style: (N, d).
        seed: of the shuffles.

    Raises:
        InputError: numbers that are not finite.
    """
    both = sides(content, style)
    generator = torch.Generator().manual_seed(name_key("chance correlations", seed))
    orders = (torch.randperm(len(content), generator=generator) for _ in range(SHUFFLES))
    found = [summary(both, order.to(content.device)).model_dump() for order in orders]
    place = math.ceil((1 - LEVEL) * (SHUFFLES + 1)) - 1
    return Correlations(**{key: sorted(one[key] for one in found)[place] for key in found[0]})
