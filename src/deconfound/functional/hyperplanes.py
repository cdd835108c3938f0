"""The shortest way from a point to a hyperplane inside the pixel box, exactly, in L-infinity, L2 and L1.

Shapes: B rows, d elements per row; leading dimensions ``...`` of the points share the hyperplanes of their rows.
Notation: t the point, w the normal, c >= 0 the room that the box leaves on the side to which an element has to move,
m >= 0 how far it moves, so that sum |w| m = need.
"""

from __future__ import annotations

import torch
from torch import Tensor

Box = tuple[float, float]

# Each round of ``level`` divides (what is missing) x (slope) by at least 4, so 32 go beyond the precision of float32.
# Where looking whether anything still changes would make the host wait, they are counted out instead.
ROUNDS = 32


def move_to_hyperplane(points: Tensor, normals: Tensor, values: Tensor, norm: str, box: Box) -> Tensor:
    """The smallest u with values + <normals, u> = 0 and box[0] <= points + u <= box[1].

    Elements move against the sign of ``values`` times their normal, never back. L-infinity: m = min(v, c). L2:
    m = min(v |w|, c). L1: elements fill up in the order of |w|, equal ones together. In each, the level v or the
    last |w| is where sum |w| m meets |values|.

    Args:
        points: (..., B, d), inside the box.
        normals: (B, d), finite; elements with normal 0 stay.
        values: (..., B), what the affine function is at the points.
        norm: ``linf``, ``l2`` or ``l1``.
        box: the range of an element.

    Returns:
        The moves u (..., B, d); where the box does not reach the hyperplane, the move that comes nearest to it, which
        takes every element to an end of the box.

    Source: Croce & Hein 2020, section 2.2 and appendix; solved there by sorting and bisection.

    >>> move_to_hyperplane(torch.zeros(1, 2), torch.tensor([[1.0, 2.0]]), torch.tensor([-1.5]), "linf", (0, 1)).tolist()
    [[0.5, 0.5]]
    """
    scale = normals.abs().amax(dim=-1).clamp_min(torch.finfo(normals.dtype).tiny)
    normals, values = normals / scale[:, None], values / scale
    weights, need = normals.abs(), values.abs()
    direction = -values.sign()[..., None] * normals.sign()
    room = torch.rsub(points, box[1]).mul_(direction)
    room = torch.maximum(room, torch.rsub(points, box[0]).mul_(direction), out=room).clamp_min_(0)
    rounds = None if room.device.type == "cpu" else ROUNDS
    if norm == "linf":
        moved = torch.minimum(level(weights, room, need, rounds)[..., None], room, out=room)
    elif norm == "l2":
        limits = room / weights.clamp_min(torch.finfo(weights.dtype).tiny)
        moved = torch.mul(level(weights.square(), limits, need, rounds)[..., None], weights, out=limits).clamp_max_(
            room
        )
    else:
        moved = _filled(weights, room, need)
    return direction.mul_(moved)


def level(weights: Tensor, limits: Tensor, need: Tensor, rounds: int | None = None) -> Tensor:
    """The least v with sum weights min(v, limits) = need, at most the largest limit.

    Newton's method from v = 0: the sum is concave and piecewise linear in v, so v rises, never overshoots, and is
    exact once no further limit is passed.

    Args:
        weights: at least 0, (B, d).
        limits: at least 0, (..., B, d).
        need: at least 0, (..., B).
        rounds: None for as many as it takes, which makes the host look at every round.

    Returns:
        v, (..., B).

    >>> level(torch.ones(1, 2), torch.tensor([[0.5, 9.0]]), torch.tensor([2.0])).tolist()
    [1.5]
    """
    tiny = torch.finfo(weights.dtype).tiny
    most = limits.amax(dim=-1)
    height, slope, part = torch.zeros_like(need), torch.full_like(need, -1.0), torch.empty_like(limits)
    for _ in range(rounds or limits.shape[-1] + 1):
        last, bar = slope, height[..., None]
        slope = torch.gt(limits, bar, out=part).mul_(weights).sum(dim=-1)
        missing = need - torch.minimum(limits, bar, out=part).mul_(weights).sum(dim=-1)
        height = torch.minimum(height + missing.clamp_min(0) / slope.clamp_min(tiny), most)
        if rounds is None and torch.equal(slope, last):
            break
    return height


def _filled(weights: Tensor, room: Tensor, need: Tensor) -> Tensor:
    """The whole room where |w| lies above the last |w| that is needed, a common share of it where |w| is that one.

    That is the largest number a with sum of (weights room) over weights >= a at least ``need``, found among
    all floating-point numbers: non-negative ones have the order of their bits.
    """
    bits = torch.int64 if weights.dtype == torch.float64 else torch.int32
    worth = weights * room
    low = torch.zeros_like(need).view(bits)
    high = weights.amax(dim=-1).expand_as(need).contiguous().view(bits) + 1
    part = torch.empty_like(worth)
    for _ in range(8 * weights.element_size() - 1):
        middle = low + ((high - low) >> 1)
        bar = middle.view(weights.dtype)[..., None]
        enough = torch.ge(weights, bar, out=part).mul_(worth).sum(dim=-1) >= need
        low, high = torch.where(enough, middle, low), torch.where(enough, high, middle)
    bar = low.view(weights.dtype)[..., None]
    above, at = torch.gt(weights, bar, out=part), (weights == bar).to(room.dtype)
    missing = need - (above * worth).sum(dim=-1)
    whole = (at * worth).sum(dim=-1).clamp_min(torch.finfo(weights.dtype).tiny)
    return at.mul_((missing / whole).clamp(0, 1)[..., None]).add_(above).mul_(room)
