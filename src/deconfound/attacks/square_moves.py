"""The moves of the Square attack: what a window changes to at a query.

Shapes: B examples, C channels, n = C H W elements, k = s s pixels of a window;
images (B, C, H, W), flat images (B, n), window elements (B, C k), masses by channel (B, C).
"""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import Tensor

from deconfound.attacks.harness import cut
from deconfound.attacks.square_windows import ORDER, Windows, tiles, two_peaks
from deconfound.core.streams import Streams
from deconfound.core.threat import ThreatModel


class Moves(Protocol):
    """A random search that changes its iterate in place. Every candidate is a new view of the iterate's memory."""

    @property
    def iterate(self) -> Tensor:
        """The best images so far, (B, C, H, W)."""
        ...

    def propose(self, query: int) -> Tensor:
        """The images that differ from the iterate by the ``query``-th square, to be settled before the next one."""
        ...

    def cut(self, index: Tensor) -> None:
        """Go on with the rows at ``index`` only, a pending proposal included."""
        ...

    def settle(self, better: Tensor) -> None:
        """Keep the proposal where it is better, (B,) bool; take it back elsewhere."""
        ...


class SignMoves:
    """L-infinity: a square in which every channel goes to one end of its range, x - eps or x + eps.

    Section 3.3 of Andriushchenko et al. 2020; the search starts from vertical stripes.
    """

    def __init__(self, threat: ThreatModel, images: Tensor, streams: Streams, sizes: list[int]) -> None:
        self._shape = images.shape[1:]
        self._windows = Windows(images.shape, streams, sizes, places=1, extras=images.shape[1])
        self._low, self._high = (threat.project(images + end, images).flatten(1) for end in (-threat.eps, threat.eps))
        stripes = streams.fold("stripes").uniform((images.shape[1], 1, images.shape[3]), images.dtype) < 0.5
        self._flat = torch.where(stripes.expand(images.shape).flatten(1), self._high, self._low)
        self._where = self._old = self._new = self._flat[:, :0]

    @property
    def iterate(self) -> Tensor:
        """The best images so far, (B, C, H, W)."""
        return self._flat.view(-1, *self._shape)

    def propose(self, query: int) -> Tensor:
        """One square; where it would change nothing, its other end in every channel.

        Of single pixels in one channel, half would otherwise be wasted queries.
        """
        (where,), coins = self._windows.at(query)
        low, high, old = (flat.gather(1, where) for flat in (self._low, self._high, self._flat))
        up = (coins < 0.5).unsqueeze(2).expand(-1, -1, where.shape[1] // coins.shape[1]).flatten(1)
        same = ((old == high) == up).all(dim=1, keepdim=True)
        self._where, self._old, self._new = where, old, torch.where(up ^ same, high, low)
        self._flat.scatter_(1, where, self._new)
        return self.iterate

    def cut(self, index: Tensor) -> None:
        """Go on with the rows at ``index`` only, a pending proposal included."""
        self._windows.cut(index)
        self._flat, self._low, self._high = cut(index, self._flat, self._low, self._high)
        self._where, self._old, self._new = cut(index, self._where, self._old, self._new)

    def settle(self, better: Tensor) -> None:
        """Keep the square where it is better, (B,) bool; take it back elsewhere."""
        self._flat.scatter_(1, self._where, torch.where(better[:, None], self._new, self._old))


class MassMoves:
    """L2 and L1: the perturbation of one window is wiped out, and its mass goes to a peak in another.

    Mass is |delta|^p, p = 2 or 1. Per channel the new window gets what both windows had together, and an equal share of
    what the ball still allows (the box took it away before). Section 3.4 and algorithm 3 of Andriushchenko et al. 2020.
    The mass is known exactly at every query, so only two windows are touched. L1 with C > 1 channels, as in the
    authors' code: the new window gets C times as much, and a projection takes it from everywhere, which makes the
    perturbation sparse.
    """

    def __init__(self, threat: ThreatModel, images: Tensor, streams: Streams, sizes: list[int]) -> None:
        self._shape, self._box, self._norm, self._threat = images.shape[1:], threat.box, threat.norm, threat
        self._order = ORDER[threat.norm]
        self._greed = images.shape[1] if threat.norm == "l1" else 1
        self._windows = Windows(images.shape, streams, sizes, places=2, extras=1 + images.shape[1])
        self._images = images.flatten(1)
        self._reach = reach(threat, images)
        delta = tiles(images.shape, streams.fold("tiles"), self._norm, images.device)
        delta = delta / torch.linalg.vector_norm(delta, self._order, dim=1, keepdim=True)
        self._flat = (self._images + self._reach * delta).clamp_(*self._box).to(images.dtype)
        self._total = self._mass(self._flat.double() - self._images).sum(dim=1)
        self._pending: tuple[Tensor, ...] = ()

    @property
    def iterate(self) -> Tensor:
        """The best images so far, (B, C, H, W)."""
        return self._flat.view(-1, *self._shape)

    def propose(self, query: int) -> Tensor:
        """Empty one window, fill another."""
        (filled, emptied), numbers = self._windows.at(query)
        image, old = self._images.gather(1, filled), self._flat.gather(1, filled)
        self._flat.scatter_(1, filled, image)
        blank, other = self._images.gather(1, emptied), self._flat.gather(1, emptied)
        self._flat.scatter_(1, emptied, blank)
        delta = self._by_channel(old.double() - image)
        both = self._mass(delta).sum(2) + self._mass(self._by_channel(other.double() - blank)).sum(2)
        spare = self._reach**self._order - self._total
        target = (both + spare[:, None] / self._shape[0]).clamp_min_(0) * self._greed
        new = image + self._filling(delta, numbers, target)
        if self._greed > 1:
            return self._projected(filled, emptied, old, other, new)
        new = new.clamp_(*self._box).to(old.dtype)
        total = self._total - both.sum(1) + self._mass(new.double() - image).sum(1)
        self._flat.scatter_(1, filled, new)
        self._pending = (filled, emptied, old, other, new, blank, total)
        return self.iterate

    def cut(self, index: Tensor) -> None:
        """Go on with the rows at ``index`` only, a pending proposal included."""
        self._windows.cut(index)
        self._flat, self._images, self._total = cut(index, self._flat, self._images, self._total)
        self._pending = cut(index, *self._pending)

    def settle(self, better: Tensor) -> None:
        """Keep the proposal where it is better, (B,) bool; take it back elsewhere."""
        keep = better[:, None]
        if self._greed > 1:
            candidate, total = self._pending
            self._flat = torch.where(keep, candidate, self._flat)
            self._total = torch.where(better, total, self._total)
            return
        filled, emptied, old, other, new, blank, total = self._pending
        self._flat.scatter_(1, emptied, torch.where(keep, blank, other))  # the windows may overlap: the first one last
        self._flat.scatter_(1, filled, torch.where(keep, new, old))
        self._total = torch.where(better, total, self._total)

    def _projected(self, filled: Tensor, emptied: Tensor, old: Tensor, other: Tensor, new: Tensor) -> Tensor:
        """The nearest allowed images to the flat ones with the new window, which go back to what they were."""
        self._flat.scatter_(1, filled, new.to(old.dtype))
        candidate = self._threat.project(self.iterate, self._images.view(-1, *self._shape))
        self._flat.scatter_(1, emptied, other).scatter_(1, filled, old)
        self._pending = (candidate.flatten(1), self._mass(candidate.flatten(1).double() - self._images).sum(dim=1))
        return candidate

    def _filling(self, delta: Tensor, numbers: Tensor, target: Tensor) -> Tensor:
        """The direction of the old window mixed with a random one, of mass ``target`` in each channel: (B, C k)."""
        size = math.isqrt(delta.shape[2])
        pattern = two_peaks(size, self._norm).to(delta.device)[(numbers[:, 0] < 0.5).to(torch.int64)]
        signs = torch.where(numbers[:, 1:] < 0.5, -1.0, 1.0).double()
        mixed = pattern[:, None] * signs[:, :, None] + delta / self._length(delta)
        return (mixed / self._length(mixed) * target.pow(1 / self._order)[:, :, None]).flatten(1)

    def _mass(self, delta: Tensor) -> Tensor:
        return delta.square() if self._order == 2 else delta.abs()

    def _length(self, delta: Tensor) -> Tensor:
        return self._mass(delta).sum(dim=2, keepdim=True).pow_(1 / self._order).clamp_min_(1e-12)

    def _by_channel(self, window: Tensor) -> Tensor:
        return window.view(len(window), self._shape[0], -1)


def reach(threat: ThreatModel, images: Tensor) -> float:
    """The radius for perturbations that are added to images and rounded: eps less the most that rounding can add.

    An element is rounded by u max|box|, u half a unit of rounding: n of them add at most u max|box| n^(1/p).
    """
    unit = torch.finfo(images.dtype).eps / 2
    added = unit * max(map(abs, threat.box)) * images[0].numel() ** (1 / ORDER[threat.norm])
    return max(threat.eps * (1 - 8 * unit) - added, threat.eps / 2)
