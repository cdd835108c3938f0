"""The nearest decision boundary of the linearised classifier: DeepFool's step, and where other attacks start.

Shapes: B examples, T other classes; images (B, C, H, W), gaps (B, T), slopes (B, T, C, H, W).
Notation: g a slope, c >= 0 the room that the box leaves along sign(g), r > 0 the gain that closes the gap.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from deconfound.attacks.harness import cut
from deconfound.attacks.minimum_norm import Chase
from deconfound.attacks.points import Points
from deconfound.attacks.targets import ranked
from deconfound.core.draws import bound
from deconfound.core.protocols import Classifier
from deconfound.core.threat import ThreatModel
from deconfound.functional import norms
from deconfound.functional.hyperplanes import move_to_hyperplane

Start = Literal["boundary", "clean"]

# Moosavi-Dezfooli et al.'s code lengthens every step by 1e-4, without which rounding can stop short of the boundary.
LEAST_STEP = 1e-4
# Without a gradient the gap cannot be closed; these keep the attempt finite in double precision.
LEAST, LARGE = 1e-100, 1e30


def linearise(
    model: Classifier, leaf: Tensor, points: Points, count: int, draws: int = 1, *tick: int | str
) -> tuple[Tensor, Tensor]:
    """z_k - z_y and its gradient for the T = min(count, K - 1) largest other logits: one forward, T backwards.

    Args:
        model: the surrogate.
        leaf: the iterate, requiring a gradient.
        points: labels and streams of the same examples.
        count: T at most.
        draws: both are averaged over so many draws; the classes are those of the first one.
        tick: tells these draws from other ones.

    Returns:
        Gaps (B, T) and slopes (B, T, C, H, W), finite.
    """
    targets: Tensor | None = None
    total: tuple[Tensor, Tensor] | None = None
    for draw in range(draws):
        logits = bound(model, points.streams.fold("draw", *tick, draw))(leaf)
        logits = logits.float() if logits.dtype in (torch.bfloat16, torch.float16) else logits
        targets = ranked(logits.detach(), points.labels, count) if targets is None else targets
        gaps = logits.gather(1, targets) - logits.gather(1, points.labels[:, None])
        part = gaps.detach(), _slopes(gaps, leaf)
        total = part if total is None else (total[0] + part[0], total[1] + part[1])
    assert total is not None
    gaps, slopes = (value if draws == 1 else value / draws for value in total)
    return gaps.nan_to_num(0.0).to(leaf.dtype), torch.nan_to_num(slopes, 0.0, 0.0, 0.0)


def _slopes(gaps: Tensor, leaf: Tensor) -> Tensor:
    if not gaps.requires_grad:
        return leaf.new_zeros(len(leaf), gaps.shape[1], *leaf.shape[1:])
    totals = gaps.sum(dim=0)
    last = len(totals) - 1
    parts = [
        torch.autograd.grad(one, leaf, retain_graph=place < last, materialize_grads=True)[0]
        for place, one in enumerate(totals)
    ]
    return torch.stack(parts, dim=1)


def to_boundary(
    iterate: Tensor, gaps: Tensor, slopes: Tensor, threat: ThreatModel, overshoot: float = 0.0, *, careful: bool = False
) -> Tensor:
    """The point nearest to the iterate, in the box, where the linearised gap to the nearest class is closed.

    min |z - x| over z in the box with gap_k + <g_k, z - x> >= overshoot |gap_k|, for the class k where it is smallest.

    Args:
        iterate: x, (B, C, H, W) in the box.
        gaps: z_k - z_y at x.
        slopes: their gradients.
        threat: norm and box.
        overshoot: a share of the gap.
        careful: the step (L2 or L-infinity) that would close the gap if there were no box, clipped: a part of the way
            in the same direction, since with growing t both pass through min(t |g|, c), or min(t, c) in L-infinity.
    """
    count, classes = gaps.shape
    flat, start = slopes.flatten(2).flatten(0, 1).double(), iterate.detach().flatten(1).double()
    # Brought to a largest element of 1, since the squares of a saturated network's gradient underflow.
    scale = flat.abs().amax(dim=1, keepdim=True).clamp_min(torch.finfo(torch.float64).tiny)
    flat = flat / scale
    gain = (-gaps).clamp_min(0).flatten()[:, None] * (1 + overshoot) / scale
    gain = gain.maximum(LEAST_STEP * norms.distance(flat, "l2")[:, None]).squeeze(1).clamp_max(LARGE)
    move = move_to_hyperplane(start.repeat_interleave(classes, dim=0), flat, -gain, threat.norm, threat.box)
    enough = (flat * move).sum(dim=1) >= gain * (1 - 1e-6)
    size = torch.where(enough, norms.distance(move, threat.norm), torch.inf).view(count, classes)
    chosen = size.argmin(dim=1) + classes * torch.arange(count, device=size.device)
    move = _unboxed(flat[chosen], gain[chosen], threat.norm) if careful else move[chosen]
    return (start + move).to(iterate.dtype).clamp(*threat.box).view_as(iterate)


def _unboxed(slope: Tensor, gain: Tensor, norm: str) -> Tensor:
    """The move of DeepFool's equation: r g / |g|_2^2, or r sign(g) / |g|_1."""
    direction = slope if norm == "l2" else slope.sign()
    return direction * (gain / (slope * direction).sum(dim=1).clamp_min(LEAST))[:, None]


def started(start: Start, model: Classifier, chase: Chase, targets: int, draws: int) -> Tensor:
    """The first iterate for ``chase.points``: the clean image, or the nearest boundary of the model linearised there.

    An attack that follows the largest other logit ends at that class's boundary, which need not be the nearest one;
    this start chooses the class by distance, for one forward and T backwards.
    """
    if start == "clean":
        return chase.points.images
    leaf = chase.points.images.detach().requires_grad_()
    gaps, slopes = linearise(model, leaf, chase.points, targets, draws, "start")
    _, index = chase.see(leaf, leave=True)
    leaf, gaps, slopes = cut(index, leaf, gaps, slopes)
    return to_boundary(leaf, gaps, slopes, chase.threat) if len(leaf) else leaf.detach()
