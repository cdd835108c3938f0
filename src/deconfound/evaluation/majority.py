"""The judge of a stochastic classifier: the majority of its draws.

Shapes: R draws, B examples, K classes; logits (R, B, K), labels, predictions (B,) int64, verdicts (B,) bool.
"""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import Any

import torch
from scipy.stats import binom
from torch import Tensor

from deconfound.core.draws import MAJORITY
from deconfound.core.protocols import StochasticClassifier
from deconfound.core.streams import Streams
from deconfound.errors import is_whole, require
from deconfound.functional.predictions import NO_PREDICTION, misses, predicted


@dataclass(frozen=True)
class Majority:
    """Predicts the class that most of R draws predict; ties go to the tied class with the largest mean probability.

    Args:
        model: draws logits from streams.
        draws: R, odd.
        abstain: None, or the level of a two-sided binomial test (Cohen et al. 2019, PREDICT): where the two most
            frequent classes do not differ at that level nothing is predicted, which counts as an error.

    Raises:
        InputError: an even number of draws, a level outside (0, 1).
    """

    model: StochasticClassifier
    _: KW_ONLY
    draws: int = MAJORITY
    abstain: float | None = None

    def __post_init__(self) -> None:
        odd = is_whole(self.draws) and self.draws > 0
        rule = "an odd whole number of at least 1, so that two classes cannot tie"
        require(odd and (self.draws % 2 == 1 or self.abstain is not None), "draws", self.draws, rule)
        level = self.abstain is None or 0 < self.abstain < 1
        require(level, "abstain", self.abstain, "None or a level between 0 and 1")

    def __call__(self, images: Tensor, labels: Tensor, streams: Streams) -> Tensor:
        """Which images (B, C, H, W) the majority gets wrong."""
        return self.predictions(images, streams) != labels

    def misses(self, images: Tensor, labels: Tensor, streams: Streams, draws: int) -> Tensor:
        """Share of so many draws that err, (B,) float64."""
        with torch.no_grad():
            return misses(self.model.draw(images, streams.fold("misses"), draws), labels)

    def predictions(self, images: Tensor, streams: Streams) -> Tensor:
        """The majority's class, -1 where it abstains or every draw is NaN."""
        with torch.no_grad():
            logits = self.model.draw(images, streams.fold("majority"), self.draws)
        votes, support = votes_of(logits)
        found = (votes + support).argmax(dim=1).masked_fill(votes.sum(dim=1) == 0, NO_PREDICTION)
        if self.abstain is None:
            return found
        return found.masked_fill(~decided(votes, self.abstain), NO_PREDICTION)

    def settings(self) -> dict[str, Any]:
        """What it does, as plain data for records."""
        return {"kind": "majority", "draws": self.draws, "abstain": self.abstain}


def votes_of(logits: Tensor) -> tuple[Tensor, Tensor]:
    """How many draws predict each class, and half their mean probability, which breaks ties. (R, B, K) -> two (B, K).

    A draw with a NaN does not vote.

    >>> votes_of(torch.tensor([[[0.0, 1.0]], [[0.0, 2.0]], [[3.0, 0.0]]]))[0].tolist()
    [[1.0, 2.0]]
    """
    draws, count, classes = logits.shape
    chosen = predicted(logits.reshape(-1, classes)).view(draws, count)
    votes = torch.zeros(count, classes + 1, dtype=torch.float64, device=logits.device)
    ones = torch.ones(count, draws, dtype=torch.float64, device=logits.device)
    place = torch.where(chosen == NO_PREDICTION, classes, chosen)
    votes.scatter_add_(1, place.T, ones)
    support = logits.double().softmax(dim=2).nan_to_num(0.0).mean(dim=0) / 2
    return votes[:, :classes], support


def decided(votes: Tensor, level: float) -> Tensor:
    """Where the two largest counts differ by a two-sided exact binomial test at ``level``. votes (B, K) -> (B,)."""
    first, second = votes.topk(2, dim=1).values.T
    p = 2 * binom.sf((first - 1).cpu().numpy(), (first + second).cpu().numpy(), 0.5)
    return torch.from_numpy(p <= level).to(votes.device)
