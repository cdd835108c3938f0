"""Norm balls and the pixel box: exact projections, uniform draws and steepest steps.

Shapes: B examples, d elements per example; every function takes (B, d) and returns (B, d).
Notation: x the clean images, w = candidate - x, a = |w|, c >= 0 the room that the box leaves in the direction of w.
"""

from __future__ import annotations

import torch
from torch import Tensor

Box = tuple[float, float]


def _length(rows: Tensor, order: int) -> Tensor:
    # Summed in float32, the L2 norm of 150 528 equal elements comes out 1e-4 of itself too large.
    return torch.linalg.vector_norm(rows, order, dim=1, keepdim=True, dtype=torch.float64).to(rows.dtype)


def distance(difference: Tensor, norm: str) -> Tensor:
    """The norm of each row, summed in double precision. difference (B, d) -> (B,)."""
    if norm == "linf":
        return difference.abs().amax(dim=1)
    return _length(difference, 2 if norm == "l2" else 1).squeeze(1)


def project_linf(candidates: Tensor, images: Tensor, eps: float | Tensor, box: Box) -> Tensor:
    """Exact projection onto {z : |z - x|_inf <= eps} and the box: two clips, which commute because x is in the box."""
    return torch.clamp(torch.minimum(torch.maximum(candidates, images - eps), images + eps), *box)


def _room(difference: Tensor, images: Tensor, box: Box) -> Tensor:
    return torch.where(difference > 0, box[1] - images, images - box[0]).clamp_min(0)


def _placed(candidates: Tensor, images: Tensor, difference: Tensor, kept: Tensor, box: Box) -> Tensor:
    """The point x + sign(w) kept, rounded towards x; what keeps all of a is the candidate's own, bit for bit."""
    moved = images + difference.sign() * kept
    # Many equal coordinates all round the same way: without this, white images leave an L1 ball by 4e-5 of its radius.
    moved = torch.where((moved - images).abs() > kept, torch.nextafter(moved, images), moved)
    return torch.clamp(torch.where(kept == difference.abs(), candidates, moved), *box)


def project_l2(candidates: Tensor, images: Tensor, eps: float | Tensor, box: Box) -> Tensor:
    """Exact projection onto {z : |z - x|_2 <= eps} and the box.

    The minimiser is x + sign(w) min(t a, c) with the largest t <= 1 whose norm is at most eps. Starting from no
    saturated coordinate, t = sqrt((eps^2 - sum over saturated c^2) / sum over free a^2) grows until the saturated
    set stays, after finitely many rounds; every iterate is inside the ball.
    """
    difference = candidates - images
    size, room = difference.abs(), _room(difference, images, box)
    square, limit = size.square(), room.square()
    saturated = torch.zeros_like(size, dtype=torch.bool)
    scale = torch.ones_like(size[:, :1])
    tiny = torch.finfo(size.dtype).tiny
    for _ in range(size.shape[1] + 1):
        free = torch.where(saturated, 0, square).sum(dim=1, keepdim=True)
        left = (eps**2 - torch.where(saturated, limit, 0).sum(dim=1, keepdim=True)).clamp_min(0)
        scale = torch.where(free > left, (left / free.clamp_min(tiny)).sqrt(), 1.0)
        now = saturated | (scale * size >= room)
        if torch.equal(now, saturated):
            break
        saturated = now
    return _placed(candidates, images, difference, torch.minimum(scale * size, room), box)


def project_l1(candidates: Tensor, images: Tensor, eps: float | Tensor, box: Box) -> Tensor:
    """Exact projection onto {z : |z - x|_1 <= eps} and the box.

    The minimiser is x + sign(w) min((a - v)+, c) with the smallest v >= 0 whose norm is at most eps. The norm is
    piecewise linear in v with kinks at a and a - c; v is found by walking the sorted kinks downwards.
    """
    difference = candidates - images
    size, room = (candidates.double() - images).abs(), _room(difference, images, box).double()
    kinks = torch.cat([size, (size - room).clamp_min(0)], dim=1)
    slopes = torch.ones_like(kinks)
    slopes[:, size.shape[1] :] = -1
    kinks, order = kinks.sort(dim=1, descending=True)
    active = slopes.gather(1, order).cumsum(dim=1)
    ends = torch.cat([kinks[:, 1:], torch.zeros_like(kinks[:, :1])], dim=1)
    mass = (active * (kinks - ends)).cumsum(dim=1)  # norm at the lower end of each gap; the last one is at v = 0
    place = (mass < eps).sum(dim=1, keepdim=True).clamp_max(kinks.shape[1] - 1)
    surplus = (mass.gather(1, place) - eps) / active.gather(1, place).clamp_min(1)
    # v = end + surplus; taken off one after the other, because beside a huge candidate their sum would round.
    shrunk = ((size - ends.gather(1, place)) - surplus.clamp_min(0)).clamp_min(0)
    kept = torch.minimum(torch.where(mass[:, -1:] <= eps, size, shrunk), room)
    return _placed(candidates, images, difference, kept.to(difference.dtype), box)


_PROJECTIONS = {"linf": project_linf, "l2": project_l2, "l1": project_l1}


def project(candidates: Tensor, images: Tensor, eps: float | Tensor, norm: str, box: Box) -> Tensor:
    """Exact projection onto the ball and the box; ``eps`` is one radius, or one for each row, (B, 1).

    L2 and L1 radii are shortened by 16 units of rounding (2e-6 of eps in float32), so that the norm of the result,
    summed again over many pixels, does not come out above eps.
    """
    if norm != "linf":
        eps = eps * (1 - 16 * torch.finfo(candidates.dtype).eps)
    return _PROJECTIONS[norm](candidates, images, eps, box)


def steepest(gradient: Tensor, norm: str, spread: int = 1) -> Tensor:
    """The direction u with norm at most 1 that maximises <gradient, u> (L1: spread over so many elements).

    L-infinity: sign(g). L2: g / |g|_2. L1: sign(g) / k on the k = ``spread`` largest |g|, 0 elsewhere; k = 1 is exactly
    steepest, and slow (Tramer & Boneh 2019, who spread it over a share of the pixels). A zero gradient gives a zero
    step.
    """
    if norm == "linf":
        return gradient.sign()
    if norm == "l2":
        tiny = torch.finfo(gradient.dtype).tiny
        # The squares of a saturated network's gradient underflow: the largest element is brought to 1 first.
        scaled = gradient / gradient.abs().amax(dim=1, keepdim=True).clamp_min(tiny)
        return scaled / _length(scaled, 2).clamp_min(tiny)
    count = min(max(1, spread), gradient.shape[1])
    largest = gradient.abs().topk(count, dim=1).indices
    chosen = torch.zeros_like(gradient).scatter_(1, largest, 1.0 / count)
    return gradient.sign() * chosen


def uniform_in_ball(uniform: Tensor, normal: Tensor, radius: Tensor, norm: str) -> Tensor:
    """A point drawn uniformly from the unit ball, from uniform numbers in (0, 1) and normal ones.

    L-infinity: 2u - 1. L2: r^(1/d) n / |n|_2. L1: r^(1/d) times a signed point of the simplex, -log(u) / sum -log(u).
    uniform, normal (B, d); radius (B, 1) uniform in (0, 1).
    """
    if norm == "linf":
        return 2 * uniform - 1
    reach = radius ** (1.0 / uniform.shape[1])
    if norm == "l2":
        return reach * normal / _length(normal, 2)
    weights = -uniform.log()
    return reach * normal.sign() * weights / weights.sum(dim=1, keepdim=True)


def relative_ascent(weight: Tensor, gradient: Tensor, gamma: float) -> Tensor:
    """Gamma |w|_2 g / |g|_2: a steepest step whose length is a share of the weight's own, in the weight's shape.

    A zero gradient gives a zero step, whatever its size it does not underflow. Both tensors have any one shape.

    Source: adversarial weight perturbation (Wu et al. 2020, eq. 8 and 10, after one step).

    >>> relative_ascent(torch.tensor([[3.0, 4.0]]), torch.tensor([[0.0, -7.0]]), 0.1).tolist()
    [[0.0, -0.5]]
    """
    direction = steepest(gradient.reshape(1, -1), "l2").view_as(weight)
    return gamma * _length(weight.reshape(1, -1), 2).squeeze() * direction
