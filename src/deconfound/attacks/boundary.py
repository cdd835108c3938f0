"""The decision boundary nearest to an iterate, of the model linearised there.

Shapes: B rows, K classes; images, gradients (B, C, H, W), labels, targets (B,) int64, logits (B, K), values (B,).
"""

from __future__ import annotations

import torch
from torch import Tensor

from deconfound.attacks.expectation import input_gradient
from deconfound.attacks.judging import errs
from deconfound.attacks.losses import targeted_margin
from deconfound.attacks.points import Points
from deconfound.core.draws import bound
from deconfound.core.protocols import Classifier
from deconfound.core.threat import Norm
from deconfound.functional import norms
from deconfound.functional.gradients import finite_gradient

_DUAL: dict[Norm, str] = {"linf": "l1", "l2": "l2", "l1": "linf"}


def boundary(
    model: Classifier,
    leaf: Tensor,
    points: Points,
    norm: Norm,
    targeted: bool,
    beta: float,
    draws: int,
    *tick: int | str,
) -> tuple[Tensor, Tensor]:
    """Value and gradient of z_k - z_y at the iterate, finite.

    Targeted, k is ``context["target"]``: one forward and one backward. Else it is the class whose boundary is
    nearest in the linear model, argmin |z_k - z_y| / |grad (z_k - z_y)|_dual, as seen from where the climb goes on,
    which is clean + beta (x - clean) if x is adversarial: one forward, K - 1 backwards.

    Args:
        model: the surrogate.
        leaf: the iterate, requiring a gradient.
        points: labels, streams and context of the same rows.
        norm: in which the boundary is near.
        targeted: the class is given.
        beta: how far an adversarial iterate goes back.
        draws: logits are averaged over so many draws of a random model (all their graphs are kept if untargeted).
        tick: tells these draws from other ones.
    """
    if targeted:
        values, gradient = input_gradient(targeted_margin, model, leaf, points, draws, *tick)
    else:
        values, gradient = _nearest(_mean_logits(model, leaf, points, draws, tick), leaf, points, norm, beta)
    return values.to(leaf.dtype).nan_to_num(0.0), gradient


def _mean_logits(model: Classifier, leaf: Tensor, points: Points, draws: int, tick: tuple[int | str, ...]) -> Tensor:
    parts = [bound(model, points.streams.fold("draw", *tick, draw))(leaf) for draw in range(draws)]
    logits = parts[0] if draws == 1 else torch.stack(parts).mean(dim=0)
    return logits.float() if logits.dtype in (torch.bfloat16, torch.float16) else logits


def _nearest(logits: Tensor, leaf: Tensor, points: Points, norm: Norm, beta: float) -> tuple[Tensor, Tensor]:
    """Goes through the other classes one by one, so that only the nearest boundary's gradient is kept."""
    count, labels, wide = logits.shape[1], points.labels, (-1, *[1] * (leaf.ndim - 1))
    share = errs(logits.detach(), labels).to(leaf.dtype) * (1 - beta)
    back = share.view(wide) * (points.images - leaf.detach())
    others = torch.arange(count - 1, device=labels.device).expand(len(labels), -1)
    others = others + (others >= labels[:, None])
    gaps = logits.gather(1, others) - logits.gather(1, labels[:, None])
    value, slope = gaps.new_zeros(len(labels)), torch.zeros_like(leaf)
    least = torch.full_like(value, torch.inf)
    for place, gap in enumerate(gaps.unbind(dim=1)):
        if not gap.requires_grad:
            continue
        keep = place < count - 2
        gradient = finite_gradient(gap.sum(), leaf, keep)
        size = norms.distance(gradient.flatten(1), _DUAL[norm]).clamp_min(torch.finfo(gradient.dtype).tiny)
        away = (gap.detach() + (gradient * back).flatten(1).sum(dim=1)).abs() / size
        near = away < least
        least, value = torch.where(near, away, least), torch.where(near, gap.detach(), value)
        slope = torch.where(near.view(wide), gradient, slope)
    return value, slope
