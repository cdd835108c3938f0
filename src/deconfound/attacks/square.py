"""Square attack: random search by squares, which needs no gradient.

Shapes: B examples; images (B, C, H, W), labels (B,) int64, losses (B,).
"""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import Any

import torch
from torch import Tensor

from deconfound.attacks.expectation import expected_loss
from deconfound.attacks.harness import Hunt, cut
from deconfound.attacks.hunting import HuntingAttack
from deconfound.attacks.losses import margin, name_of
from deconfound.attacks.settings import check_threat, described, number
from deconfound.attacks.square_moves import MassMoves, Moves, SignMoves
from deconfound.attacks.square_windows import share, side
from deconfound.core.protocols import AttackLoss, Classifier, StochasticClassifier
from deconfound.errors import require, require_whole


@dataclass(frozen=True)
class Square(HuntingAttack):
    """Square attack (Andriushchenko et al. 2020): x <- x with one window changed, kept where the loss grows.

    The window's position, signs and form are drawn for each example; its size shrinks by a schedule common to all.
    L-infinity: the pixels of a square go to x - eps or x + eps, from vertical stripes on. L2 and L1: the perturbation
    of one window moves to peaks in another, from a chequerboard of peaks on.

    Args:
        threat: norm, radius and box.
        queries: forwards of the surrogate in each restart, the start included (and each times ``draws``); one more
            look is taken at the end at the best image.
        p_init: the share of the pixels that the first squares cover.
        rescale: the schedule of sizes, made for 10 000 queries, is compressed to ``queries``. False as in AutoAttack,
            where 5000 queries see the first half of it.
        loss: what has to grow, strictly; the logit margin by default.
        restarts: searches from fresh starts; later ones work on the points that still stand.
        draws: the loss is averaged over so many draws of a random model.
        name: in records, and for the random numbers of an evaluation; by default from the settings.

    Raises:
        InputError: a setting outside its range; images without height and width.

    Departures from the authors' code: positions and signs are drawn for each example, not once for the batch; the last
    row and column can be reached by small squares; an L-infinity square that would change nothing takes the other sign;
    the start counts as a query.

    >>> from deconfound.core.threat import ThreatModel
    >>> Square(ThreatModel("linf", "8/255")).name
    'square-5000'
    """

    _: KW_ONLY
    queries: int = 5000
    p_init: float = 0.8
    rescale: bool = False
    loss: AttackLoss = margin
    restarts: int = 1
    draws: int = 1
    name: str = ""

    def __post_init__(self) -> None:
        check_threat(self.threat)
        require_whole("queries", self.queries)
        number("p_init", self.p_init, above=True, most=1.0)
        require(isinstance(self.rescale, bool), "rescale", self.rescale, "true or false")
        require(callable(self.loss), "loss", self.loss, "a function (model, images, labels, context) -> (B,)")
        require_whole("restarts", self.restarts)
        require_whole("draws", self.draws)
        if not self.name:
            repeats = f"x{self.restarts}" if self.restarts > 1 else ""
            object.__setattr__(self, "name", f"square-{self.queries}{repeats}")

    def settings(self) -> dict[str, Any]:
        """Every hyper-parameter, ready for JSON."""
        return described(
            "square",
            self.threat,
            queries=self.queries,
            p_init=float(self.p_init),
            rescale=self.rescale,
            loss=name_of(self.loss),
            restarts=self.restarts,
            draws=self.draws,
        )

    def sizes(self, height: int, width: int) -> list[int]:
        """The side of the square at each query after the start."""
        odd = self.threat.norm != "linf"
        shares = (share(query, self.queries, self.p_init, self.rescale) for query in range(self.queries - 1))
        return [side(part, height, width, odd) for part in shares]

    def _check(self, images: Tensor) -> None:
        shape = tuple(images.shape) if isinstance(images, Tensor) else type(images).__name__
        require(len(shape) == 4, "images", shape, "of shape (B, C, H, W): squares need height and width")

    def body(self, surrogate: Classifier, hunt: Hunt) -> None:
        """Restart by restart, without gradients."""
        with torch.no_grad():
            for restart in range(self.restarts):
                self._search(surrogate, hunt, restart)
                if not len(hunt.points):
                    return

    def _search(self, surrogate: Classifier, hunt: Hunt, restart: int) -> None:
        images, streams = hunt.points.images, hunt.points.streams.fold("square", restart)
        make = SignMoves if self.threat.norm == "linf" else MassMoves
        moves: Moves = make(self.threat, images, streams, self.sizes(*images.shape[2:]))
        best = torch.full_like(images[:, 0, 0, 0], -torch.inf)
        for query in range(self.queries):
            candidate = moves.propose(query - 1) if query else moves.iterate
            values = self._loss(surrogate, candidate, hunt, restart, query)
            better = values > best
            best = torch.where(better, values, best)
            index = hunt.drop_fallen(candidate)
            if index is not None:
                if not len(index):
                    return
                best, better = cut(index, best, better)
                moves.cut(index)
            if query:
                moves.settle(better)
        hunt.drop_fallen(moves.iterate, ask_all=True)

    def _loss(self, surrogate: Classifier, candidate: Tensor, hunt: Hunt, restart: int, query: int) -> Tensor:
        points = hunt.points
        if self.draws == 1 and not isinstance(surrogate, StochasticClassifier):  # no numbers to make for its draws
            return self.loss(surrogate, candidate, points.labels, points.context)
        return expected_loss(self.loss, surrogate, candidate, points, self.draws, "square", restart, query)
