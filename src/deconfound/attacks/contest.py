"""Which image an attack hands back where the judge is random: none falls by one lucky draw, the best estimate wins.

Shapes: B examples; images (B, C, H, W), places (B,) int64 within the examples, shares and scores (B,).
"""

from __future__ import annotations

import torch
from torch import Tensor

from deconfound.attacks.points import first_of_each
from deconfound.core.draws import MAJORITY
from deconfound.core.protocols import RandomJudge
from deconfound.core.streams import Streams

LOOK, MORE, CHOICE = MAJORITY, 36, 25
"""Draws of a candidate that seems to have fallen, of one that all of these misjudge, and of each finalist."""
SURE = 0.95
"""Share of the second that ends a climb: at a true share of 0.8, which any majority calls wrong, 0.3 % reach it."""


class Contest:
    """Candidates of every example, of which the one that most draws misjudge is handed back.

    An attack that stops at the first image that some draws misjudge hands back a boundary point that was fitted to
    these draws, and fresh ones get it right again. So a climb goes on, and at its end two finalists of each example are
    asked about with fresh draws: the candidate of the largest margin by the surrogate's own draws, and the one most
    often misjudged among those that the judge saw. A climb ends early only at an image that nine draws misjudge, all of
    them, and ``SURE`` of 36 more.

    Args:
        judge: draws.
        images: the clean images.
        streams: one for each example.
    """

    def __init__(self, judge: RandomJudge, images: Tensor, streams: Streams) -> None:
        self._judge, self._streams = judge, streams
        self._heard, self._asked = (_Finalist(images) for _ in range(2))

    def enter(self, candidates: Tensor, labels: Tensor, place: Tensor, margins: Tensor) -> Tensor:
        """Candidates with the surrogate's margins, positive where it errs; returns positions of those surely fallen."""
        margins = margins.nan_to_num(torch.inf)
        better = self._heard.offer(candidates, place, margins)
        return self.sure(candidates, labels, place, better[margins[better] > 0])

    def enter_asked(self, candidates: Tensor, labels: Tensor, place: Tensor) -> Tensor:
        """Candidates of which the judge sees all; returns as ``enter``."""
        shares = self._misses(candidates, labels, place, "look", LOOK)
        better = self._asked.offer(candidates, place, shares)
        return self.sure(candidates, labels, place, better[shares[better] == 1])

    def winners(self, labels: Tensor) -> Tensor:
        """The better finalist of every example, the clean image where nothing entered. labels of all examples."""
        heard, asked = self._heard, self._asked
        apart = (heard.met & asked.met & (heard.images != asked.images).flatten(1).any(dim=1)).nonzero().squeeze(1)
        chosen = torch.where(wide(asked.met, heard.images), asked.images, heard.images)
        if len(apart):
            own, place = labels[apart], apart
            first, second = (self._misses(one.images[apart], own, place, "choice", CHOICE) for one in (heard, asked))
            chosen[apart] = torch.where(wide(first > second, chosen), heard.images[apart], asked.images[apart])
        return chosen

    def sure(self, candidates: Tensor, labels: Tensor, place: Tensor, rows: Tensor) -> Tensor:
        """Those of the rows that nine draws misjudge, all of them, and nearly all of 36 more."""
        for purpose, draws, share in (("look", LOOK, 1.0), ("more", MORE, SURE)):
            if not len(rows):
                break
            rows = rows[self._misses(candidates[rows], labels[rows], place[rows], purpose, draws) >= share]
        return rows

    def _misses(self, candidates: Tensor, labels: Tensor, place: Tensor, purpose: str, draws: int) -> Tensor:
        """Share of draws that err; the same draws at every look, so that no example depends on its company."""
        streams = self._streams[place].fold(purpose)
        with torch.no_grad():
            return self._judge.misses(candidates.detach(), labels, streams, draws)


class _Finalist:
    """The candidate with the largest score of every example; of equal ones the later."""

    def __init__(self, images: Tensor) -> None:
        self.images = images.clone()
        self.scores = torch.full((len(images),), -torch.inf, dtype=torch.float64, device=images.device)
        self.met = torch.zeros(len(images), dtype=torch.bool, device=images.device)

    def offer(self, candidates: Tensor, place: Tensor, scores: Tensor) -> Tensor:
        """Takes what is better; positions of what was taken, at most one for each example."""
        scores = scores.double()
        order = scores.argsort(descending=True, stable=True)
        taken = order[first_of_each(place[order])]  # of several rows of one example the best
        taken = taken[scores[taken] >= self.scores[place[taken]]]
        self.images[place[taken]] = candidates.detach()[taken]
        self.scores[place[taken]] = scores[taken]
        self.met[place[taken]] = True
        return taken


def wide(flags: Tensor, images: Tensor) -> Tensor:
    """Flags (B,) as (B, 1, 1, 1)."""
    return flags.view(-1, *[1] * (images.ndim - 1))
