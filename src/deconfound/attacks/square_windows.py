"""Windows of the Square attack: how large they are, where they lie, which forms fill them.

Shapes: B examples, C channels, n = C H W elements, Q queries of a block, k = s s pixels of a window;
images (B, C, H, W), flat images (B, n), window elements (B, C k).
"""

from __future__ import annotations

import math
from bisect import bisect_left
from functools import cache, lru_cache

import torch
from torch import Tensor

from deconfound.core.streams import Streams

# Queries, out of 10 000, after which the share of changed pixels is halved (Andriushchenko et al. 2020, section 4.2;
# the first and last ones as in the authors' code).
HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
SCHEDULE = 10_000

# Random numbers of so many queries are made at once: a hash for each would cost more than the rest of the move.
BLOCK = 64

# The sharpness of a window's peak, 1 / (r + 1)^power: section 3.4 for L2, the authors' code for L1.
POWER = {"l2": 2, "l1": 4}
ORDER = {"l2": 2, "l1": 1}


def share(query: int, queries: int, p_init: float, rescale: bool) -> float:
    """The share of an image's pixels that the ``query``-th square (from 0) covers.

    >>> [share(query, 5000, 0.8, False) for query in (0, 10, 11, 4999)]
    [0.8, 0.8, 0.4, 0.00625]
    >>> share(4999, 5000, 0.8, True)
    0.0015625
    """
    place = query * SCHEDULE // queries if rescale else query
    return float(p_init / 2 ** bisect_left(HALVINGS, place))


def side(share: float, height: int, width: int, odd: bool) -> int:
    """The side of a square that covers ``share`` of an image; for L2 and L1 ``odd`` and at least 3; it always fits."""
    length = max(round(math.sqrt(share * height * width)), 3 if odd else 1)
    return min(length + (odd and length % 2 == 0), height, width)


@cache
def peak(height: int, width: int, power: int) -> Tensor:
    """A pyramid around the middle: sum over j >= r of 1 / (j + 1)^power at Chebyshev distance r, (height, width)."""
    rows = (torch.arange(height) - height // 2).abs()
    columns = (torch.arange(width) - width // 2).abs()
    steps = torch.arange(1, max(height, width) // 2 + 2, dtype=torch.float64) ** -power
    tail = steps.flip(0).cumsum(0).flip(0)
    return tail[torch.maximum(rows[:, None], columns[None, :])]


@cache
def two_peaks(size: int, norm: str) -> Tensor:
    """A positive peak above a negative one, and the same on its side, each of norm 1: (2, size size), float64.

    Equation (2) of Andriushchenko et al. 2020. Both halves have the same norm.
    """
    above = size // 2
    halves = [peak(rows, size, POWER[norm]) for rows in (above, size - above) if rows]
    halves = [half / torch.linalg.vector_norm(half, ORDER[norm]) for half in halves]
    pattern = torch.cat([halves[0], -halves[1]]) if len(halves) == 2 else halves[0]
    pattern = pattern / torch.linalg.vector_norm(pattern, ORDER[norm])
    return torch.stack([pattern.flatten(), pattern.T.flatten()])


class Windows:
    """Squares of one size schedule at positions of each example's own: where they lie, and the numbers behind them."""

    def __init__(self, shape: torch.Size, streams: Streams, sizes: list[int], places: int, extras: int) -> None:
        self.channels, self.height, self.width = shape[1:]
        self._streams, self._sizes, self._places, self._extras = streams, sizes, places, extras
        self._drawn = torch.empty(shape[0], 0, device=streams.device)

    def at(self, query: int) -> tuple[list[Tensor], Tensor]:
        """Element numbers of the windows, each (B, C k), and further uniform numbers (B, extras) of this query."""
        if query % BLOCK == 0:
            self._draw(query // BLOCK)
        size, drawn = self._sizes[query], self._drawn[:, query % BLOCK]
        grid = window(size, self.channels, self.height, self.width, drawn.device)
        corners = drawn[:, : self._places].to(torch.int64)
        return [corners[:, place, None] + grid for place in range(self._places)], drawn[:, self._places :]

    def cut(self, index: Tensor) -> None:
        """Go on with the examples at ``index``."""
        self._streams, self._drawn = self._streams[index], self._drawn[index]

    def _draw(self, block: int) -> None:
        sizes = self._sizes[block * BLOCK : (block + 1) * BLOCK]
        uniform = self._streams.fold("block", block).uniform((BLOCK, 2 * self._places + self._extras), torch.float64)
        uniform = uniform[:, : len(sizes)]
        room = torch.tensor(sizes, device=uniform.device)[None, :, None]
        rows = (uniform[..., : self._places] * (self.height + 1 - room)).floor_()
        columns = (uniform[..., self._places : 2 * self._places] * (self.width + 1 - room)).floor_()
        self._drawn = torch.cat([rows * self.width + columns, uniform[..., 2 * self._places :]], dim=2)


@lru_cache(maxsize=64)
def window(size: int, channels: int, height: int, width: int, device: torch.device) -> Tensor:
    """The element numbers of the window in the top left corner, (C size size,), channel by channel."""
    side = torch.arange(size, device=device)
    planes = torch.arange(channels, device=device) * (height * width)
    return (planes[:, None, None] + side[:, None] * width + side).flatten()


def tiles(shape: torch.Size, streams: Streams, norm: str, device: torch.device) -> Tensor:
    """The start of L2 and L1: two-peak tiles of a fifth of the side over the image, signs at random, (B, n) float64."""
    count, channels, height, width = shape
    size = max(min(height, width) // 5, 1)
    down, across = height // size, width // size
    coins = streams.uniform((down * across * (1 + channels),)).view(count, down * across, 1 + channels) < 0.5
    pattern = two_peaks(size, norm).to(device)[coins[:, :, 0].to(torch.int64)].view(count, down, across, 1, size, size)
    signs = torch.where(coins[:, :, 1:], -1.0, 1.0).double().view(count, down, across, channels, 1, 1)
    whole = (pattern * signs).permute(0, 3, 1, 4, 2, 5).reshape(count, channels, down * size, across * size)
    start = torch.zeros(shape, dtype=torch.float64, device=device)
    top, left = (height - down * size) // 2, (width - across * size) // 2
    start[:, :, top : top + down * size, left : left + across * size] = whole
    return start.flatten(1)
