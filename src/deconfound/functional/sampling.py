"""The retinotopic sampler of CiiV: noisy cells that fire or not, kept more often near a centre of gaze.

Shapes: B examples, L loops, M inner samples, C channels, H height, W width; inputs (B, C, H, W); centres (..., 2), row
and column, int64; acceptance q (..., H, W); noise (B, L, M, C, H, W) in (-1, 1), masks (B, L, M, H, W); views
(B, L, C, H, W), exposure (B, L). Loops come second, so that views are rows of a batch without copying.

Source: Tang, Tao, Zhang 2021, arXiv 2106.09534; constants of the released code.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from deconfound.errors import require

Acceptance = Literal["power", "linear", "root"]
ACCEPTANCES: tuple[Acceptance, ...] = get_args(Acceptance)
Slope = Literal["none", "expected", "wide", "raw"]

GUARD = 1e-5
"""In b = r / (r + 1e-5), which is close to the indicator of r > 0."""
THRESHOLD = 0.9
"""A pixel is kept where q + U(0, 1) is above it."""
OFFSET, POWER = 10.0, 0.3
"""In q = (D_max - D + 10)^0.3, at every size of image."""
REACH = 120.0
"""In q = 1 - D / 120."""
ROOT_SCALE, ROOT_DIVISOR = 2.5, 0.6
"""In q = 2.5 / (0.6 sqrt(D))."""
GRID = 9
LEAST_SIDE = 4
"""Below 4 pixels the three lines of the grid do not all lie on the image."""


def grid_lines(side: int, points: Sequence[int] | None = None, field: str = "size") -> tuple[int, int, int]:
    """The three lines of the grid along one axis: S // 2, round(S / 6), S - round(S / 6), or the points given.

    Args:
        side: S in pixels.
        points: three different pixels in place of these.
        field: what to call the side in messages.

    Raises:
        InputError: a side below 4 pixels, or points that do not lie on it.

    >>> grid_lines(32), grid_lines(64), grid_lines(84)
    ((16, 5, 27), (32, 11, 53), (42, 14, 70))
    """
    if points is None:
        require(side >= LEAST_SIDE, field, side, f"at least {LEAST_SIDE} pixels, for the 3 x 3 grid of centres")
        return side // 2, round(side / 6), side - round(side / 6)
    good = len(points) == 3 and len(set(points)) == 3 and min(points) >= 0
    require(good, "points", tuple(points), "three different pixels of at least 0")
    require(side > max(points), field, side, f"more than {max(points)} pixels, where a line of the centre grid lies")
    return points[0], points[1], points[2]


def grid_centres(height: int, width: int, points: Sequence[int] | None = None) -> Tensor:
    """The nine centres (9, 2): number 3 i + j lies in column c[i] and row c'[j], c and c' the lines of each axis.

    Raises:
        InputError: as ``grid_lines``.

    >>> grid_centres(32, 32)[:2].tolist()
    [[16, 16], [5, 16]]
    """
    rows, columns = grid_lines(height, points, "height"), grid_lines(width, points, "width")
    return torch.tensor([(row, column) for column in columns for row in rows])


def distances(centres: Tensor, height: int, width: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """D, Euclidean distance in pixels of every pixel to each centre: (..., 2) -> (..., H, W)."""
    rows = torch.arange(height, device=centres.device, dtype=dtype) - centres[..., 0, None].to(dtype)
    columns = torch.arange(width, device=centres.device, dtype=dtype) - centres[..., 1, None].to(dtype)
    return (rows.square()[..., :, None] + columns.square()[..., None, :]).sqrt()


def acceptance(distance: Tensor, kind: Acceptance = "power") -> Tensor:
    """Q of distances (..., H, W).

    ``power``: (D_max - D + 10)^0.3 over its own maximum, D_max the largest distance in the image. ``linear``:
    1 - D / 120. ``root``: 2.5 / (0.6 sqrt(D)), infinite at the centre.
    """
    if kind == "linear":
        return 1 - distance / REACH
    if kind == "root":
        return ROOT_SCALE / (ROOT_DIVISOR * distance.sqrt())
    raised = (distance.amax(dim=(-2, -1), keepdim=True) - distance + OFFSET) ** POWER
    return raised / raised.amax(dim=(-2, -1), keepdim=True)


def kept(q: Tensor, uniform: Tensor) -> Tensor:
    """The mask m = [q + U > 0.9], bool, for U (..., H, W) in (0, 1)."""
    return q + uniform > THRESHOLD


def keep_probability(q: Tensor) -> Tensor:
    """P(m = 1) = min(1, q + 0.1), and 0 where q is below -0.1."""
    return (q + (1 - THRESHOLD)).clamp(0, 1)


def exposure_of(masks: Tensor) -> Tensor:
    """Z, the share of pixels kept in all inner samples: (B, L, M, H, W) -> (B, L); one pixel where none was."""
    flat = masks.flatten(2)
    return flat.float().mean(dim=2).clamp_min(1 / flat.shape[2])


def fired(inputs: Tensor, noise: Tensor, amplitude: float) -> Tensor:
    """B = r / (r + 1e-5) with r = relu(x + a u).

    Args:
        inputs: x, anything that broadcasts against the noise.
        noise: u in (-1, 1).
        amplitude: a.
    """
    r = F.relu(torch.add(inputs, noise, alpha=amplitude))
    return r / (r + GUARD)


def firing_probability(inputs: Tensor, amplitude: float) -> Tensor:
    """P(x + a u > 0) = clip((x + a) / 2a, 0, 1) for u uniform in (-1, 1).

    >>> firing_probability(torch.tensor([-1.0, 0.0, 0.5, 2.0]), 1.0).tolist()
    [0.0, 0.5, 0.75, 1.0]
    """
    return ((inputs + amplitude) / (2 * amplitude)).clamp(0, 1)


def expected_slope(inputs: Tensor, amplitude: float) -> Tensor:
    """Its derivative, 1[|x| < a] / 2a, which is also the mean over u of db/dx up to the guard."""
    return (inputs.abs() < amplitude).to(inputs.dtype) / (2 * amplitude)


def wide_slope(inputs: Tensor, amplitude: float) -> Tensor:
    """1 / 2a everywhere: also cells that always fire, or never do, are pushed to where their chance would change."""
    return torch.full_like(inputs, 1 / (2 * amplitude))


def raw_slope(inputs: Tensor, noise: Tensor, amplitude: float) -> Tensor:
    """Db/dx = 1e-5 / (r + 1e-5)^2 where r > 0, else 0: tiny nearly everywhere, enormous on a handful of pixels."""
    r = F.relu(torch.add(inputs, noise, alpha=amplitude))
    return torch.where(r > 0, GUARD / (r + GUARD).square(), torch.zeros_like(r))


class Sampled(NamedTuple):
    """A view (B, L, C, H, W) and its derivative by the input, elementwise, of the same shape; None where not asked."""

    view: Tensor
    slope: Tensor | None


def sampled(inputs: Tensor, noise: Tensor, masks: Tensor, amplitude: float, slope: Slope = "none") -> Sampled:
    """V_l = mean over k of m_lk b_lk, without gradient.

    Args:
        inputs: x (B, C, H, W).
        noise: u (B, L, M, C, H, W) in (-1, 1).
        masks: (B, L, M, H, W) bool, or (1, L, M, H, W) shared over the examples.
        amplitude: a in (0, 2].
        slope: ``expected`` mean_k m_lk 1[|x| < a] / 2a, ``wide`` the same without the bound, ``raw``
            mean_k m_lk db_lk/dx, or none.
    """
    with torch.no_grad():
        x, seen = inputs[:, None, None], masks[:, :, :, None].to(inputs.dtype)
        view = fired(x, noise, amplitude).mul_(seen).mean(dim=2)
        if slope == "none":
            return Sampled(view, None)
        if slope == "raw":
            return Sampled(view, raw_slope(x, noise, amplitude).mul_(seen).mean(dim=2))
        each = wide_slope(inputs, amplitude) if slope == "wide" else expected_slope(inputs, amplitude)
        return Sampled(view, each[:, None] * seen.mean(dim=2))


def attached(found: Sampled, inputs: Tensor, sign: int = 1) -> Tensor:
    """The view with its slope as the derivative by the inputs (B, C, H, W): v + s (x - x), the last x held fixed.

    Forward it is the view to the last bit; ``sign`` -1 for cells that see 1 - x.
    """
    if found.slope is None:
        return found.view
    moved = (inputs - inputs.detach())[:, None]
    return found.view + found.slope * (moved if sign > 0 else -moved)


def centred(views: Tensor) -> Tensor:
    """The spatial mean removed per channel (first version)."""
    return views - views.mean(dim=(-2, -1), keepdim=True)
