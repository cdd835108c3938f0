"""One climb of AutoPGD: step sizes that halve where the loss stops rising (L-infinity, L2), sparsity that adapts (L1).

Shapes: B rows (an example, or an example with one of its targets); images, gradients (B, C, H, W), losses (B,).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from deconfound.core.threat import ThreatModel

# Croce & Hein 2020, section 3: first window 0.22 of the steps, each 0.03 shorter, none below 0.06.
FIRST_WINDOW, SHORTER, LAST_WINDOW = 0.22, 0.03, 0.06
MOMENTUM = 0.75
# Croce & Hein 2021 (L1-APGD), section 3: window 0.04; a fifth of the pixels at first; the step shrinks by 1.5 down to
# a tenth; sparsity is that of the best point, divided by 1.5, and counts as reduced below 0.95 of the last one.
L1_WINDOW, L1_SHARE, L1_SHRINK, L1_LEAST_STEP, L1_REDUCED = 0.04, 0.2, 1.5, 0.1, 0.95


def windows(steps: int, norm: str) -> Mapping[int, int]:
    """After which steps the step size is checked, and how many steps the window before had.

    >>> windows(20, "linf")
    {4: 4, 7: 3, 9: 2, 10: 1, 11: 1, 12: 1, 13: 1, 14: 1, 15: 1, 16: 1, 17: 1, 18: 1, 19: 1, 20: 1}
    """
    if norm == "l1":
        width = max(int(L1_WINDOW * steps), 1)
        return dict.fromkeys(range(width, steps + 1, width), width)
    found, at, width = {}, 0, max(int(FIRST_WINDOW * steps), 1)
    shorter, least = max(int(SHORTER * steps), 1), max(int(LAST_WINDOW * steps), 1)
    while at + width <= steps:
        at += width
        found[at] = width
        width = max(width - shorter, least)
    return found


@dataclass
class Climb:
    """The tensors of one climb, cut together as rows fall.

    Attributes:
        images: clean.
        iterate, previous: the point and the one before.
        gradient, value: of the loss at ``iterate``.
        best, best_gradient, best_value: where the loss was highest so far.
        step: length (B, 1, 1, 1) in the norm.
        rises: steps of this window that raised the loss.
        reduced: whether the last check shortened the step.
        best_at_check: ``best_value`` at the last check.
        kept: L1: non-zero pixels of the step; then those of the best point at the last check.
        support: L1: non-zero pixels of the best perturbation at the last check.
    """

    images: Tensor
    iterate: Tensor
    previous: Tensor
    gradient: Tensor
    value: Tensor
    best: Tensor
    best_gradient: Tensor
    best_value: Tensor
    step: Tensor
    rises: Tensor
    reduced: Tensor
    best_at_check: Tensor
    kept: Tensor
    support: Tensor

    @classmethod
    def begin(
        cls, images: Tensor, start: Tensor, value: Tensor, gradient: Tensor, threat: ThreatModel, resumed: bool = False
    ) -> Climb:
        """At the first iterate, of which value and gradient are known; ``resumed``: it comes from another climb."""
        count, size, scale = len(images), images[0].numel(), 1.0 if threat.norm == "l1" else 2.0
        step = torch.full((count, *[1] * (images.ndim - 1)), scale * threat.eps, dtype=images.dtype).to(images.device)
        support = torch.full((count,), float(size), dtype=images.dtype, device=images.device)
        kept = support * L1_SHARE
        if resumed:
            support = _support(start - images)
            kept = support / L1_SHRINK
        zeros = torch.zeros_like(value)
        reduced = torch.ones_like(value, dtype=torch.bool)
        known = value.masked_fill(value.isnan(), -torch.inf)  # nothing would ever be better than NaN
        best = (start, gradient, known)
        return cls(images, start, start, gradient, known, *best, step, zeros, reduced, known, kept, support)

    def take(self, index: Tensor) -> None:
        """Keep the rows at ``index``."""
        for field in fields(self):
            setattr(self, field.name, getattr(self, field.name)[index])

    def advance(self, threat: ThreatModel, first: bool) -> None:
        """One step: z = P(x + s u), then for L-infinity and L2 P(x + 0.75 (z - x) + 0.25 (x - x_previous)).

        Departure in L1: pixels that the box blocks are left out of the step.
        """
        if threat.norm == "l1":
            gradient = threat.unblocked(self.gradient, self.iterate)
            moved = threat.project(self.iterate + self.step * _sparse_sign(gradient, self.kept), self.images)
        else:
            moved = torch.addcmul(self.iterate, self.step, threat.steepest(self.gradient))
            moved = threat.project(moved, self.images)
            if not first:
                ahead = torch.sub(self.iterate, self.previous).add_(self.iterate)
                moved = threat.project(torch.lerp(ahead, moved, MOMENTUM), self.images)
        self.previous, self.iterate = self.iterate, moved

    def observe(self, value: Tensor, gradient: Tensor) -> None:
        """Take in value and gradient at the new iterate."""
        self.rises = self.rises + (value > self.value)
        self.value, self.gradient = value, gradient
        better = value > self.best_value
        wide = better.view(-1, *[1] * (self.images.ndim - 1))
        self.best = torch.where(wide, self.iterate, self.best)
        self.best_gradient = torch.where(wide, gradient, self.best_gradient)
        self.best_value = torch.where(better, value, self.best_value)

    def check(self, threat: ThreatModel, width: int, rho: float) -> None:
        """At the end of a window: rows that do not get on go back to their best point, with a shorter step."""
        back = self._sparser(threat) if threat.norm == "l1" else self._stalled(width, rho)
        wide = back.view(-1, *[1] * (self.images.ndim - 1))
        self.iterate = torch.where(wide, self.best, self.iterate)
        self.gradient = torch.where(wide, self.best_gradient, self.gradient)

    def _stalled(self, width: int, rho: float) -> Tensor:
        """Rose in at most rho of the steps, or best value unchanged since a check that did not halve: halve."""
        stalled = (self.rises <= rho * width) | (~self.reduced & (self.best_at_check >= self.best_value))
        wide = stalled.view(-1, *[1] * (self.images.ndim - 1))
        self.step = torch.where(wide, self.step / 2, self.step)
        self.reduced, self.best_at_check = stalled, self.best_value
        self.rises = torch.zeros_like(self.rises)
        return stalled

    def _sparser(self, threat: ThreatModel) -> Tensor:
        """Where the best perturbation has become sparser: full steps again, from there; elsewhere shorter ones."""
        support = _support(self.best - self.images)
        sparser = support < L1_REDUCED * self.support
        wide = sparser.view(-1, *[1] * (self.images.ndim - 1))
        full = threat.eps
        self.step = torch.where(wide, full, (self.step / L1_SHRINK).clamp(L1_LEAST_STEP * full, full))
        self.kept, self.support = support / L1_SHRINK, support
        return sparser


def _support(difference: Tensor) -> Tensor:
    return difference.flatten(1).ne(0).sum(dim=1).to(difference.dtype)


def _sparse_sign(gradient: Tensor, kept: Tensor) -> Tensor:
    """sign(g) on the pixels with the largest |g|, ``kept`` (B,) many per row, divided by their number."""
    flat = gradient.flatten(1)
    size = flat.shape[1]
    place = (size - kept).long().clamp(0, size - 1)
    least = flat.abs().sort(dim=1).values.gather(1, place[:, None])
    chosen = flat.sign() * (flat.abs() >= least)
    return (chosen / chosen.abs().sum(dim=1, keepdim=True).clamp_min(1)).view_as(gradient)


__all__ = ["Climb", "windows"]
