"""What CiiV makes of its views: the prediction, and the regulariser that asks for equal features per exposure.

Shapes: V views, B examples, D features, K classes; features f (V, B, D), logits o (V, B, K), exposure z (V, B).

Source: Tang, Tao, Zhang 2021, arXiv 2106.09534.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from deconfound.errors import require

Distance = Literal["smooth_l1", "l2"]
DISTANCES: tuple[Distance, ...] = get_args(Distance)
Against = Literal["others", "all"]
AGAINST: tuple[Against, ...] = get_args(Against)


def pooled(logits: Tensor, exposure: Tensor) -> Tensor:
    """The prediction (1/V) sum_l o_l / z_l, (B, K).

    >>> pooled(torch.tensor([[[1.0, 2.0]], [[3.0, 0.0]]]), torch.tensor([[0.5], [1.0]])).tolist()
    [[2.5, 2.0]]
    """
    return (logits / exposure[..., None].to(logits.dtype)).mean(dim=0)


def consistency(
    features: Tensor, exposure: Tensor, distance: Distance = "smooth_l1", against: Against = "others"
) -> Tensor:
    """R_l = d(f_l zbar, fbar z_l), summed over features: (V, B).

    The instrument's condition f_l / z_l = const, multiplied out.

    Args:
        features: f (V, B, D).
        exposure: z (V, B).
        distance: d, SmoothL1 with beta 1, or the squared difference (``l2``).
        against: bars are means over the other views (second version of the method) or over all of them (first).

    Raises:
        InputError: a single view, an unknown name.

    >>> f = torch.tensor([[[2.0]], [[1.0]]])
    >>> consistency(f, torch.tensor([[1.0], [0.5]])).tolist()
    [[0.0], [0.0]]
    """
    count = len(features)
    require(count >= 2, "loops", count, "at least 2 with a consistency term, which compares views")
    require(distance in DISTANCES, "distance", distance, f"one of {', '.join(DISTANCES)}")
    require(against in AGAINST, "against", against, f"one of {', '.join(AGAINST)}")
    work = features if features.dtype == torch.float64 else features.float()
    z = exposure.to(work.dtype)[..., None]
    mean_f, mean_z = (_bar(values, against) for values in (work, z))
    pair = work * mean_z, mean_f * z
    if distance == "l2":
        return F.mse_loss(*pair, reduction="none").sum(dim=2)
    return F.smooth_l1_loss(*pair, reduction="none").sum(dim=2)


def _bar(values: Tensor, against: Against) -> Tensor:
    total = values.sum(dim=0, keepdim=True)
    return total / len(values) if against == "all" else (total - values) / (len(values) - 1)
