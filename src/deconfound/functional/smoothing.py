"""Randomised smoothing in closed form (Cohen et al. 2019, arXiv 1902.02918).

Shapes: B examples, K classes; votes (B, K) numbers of draws.
"""

from __future__ import annotations

from dataclasses import dataclass

from scipy import stats
from torch import Tensor

from deconfound.errors import require
from deconfound.functional.predictions import NO_PREDICTION
from deconfound.functional.statistics import clopper_pearson_lower


@dataclass(frozen=True)
class Certificate:
    """What is certain of the smoothed classifier at a point: its class, -1 where it abstains, within an L2 radius."""

    prediction: int
    radius: float


def certified_radius(share: float, sigma: float) -> float:
    """Sigma Phi^-1(p): the L2 radius around x within which a class of probability at least p > 1/2 stays the largest.

    Phi is the standard normal distribution function; 0 for p <= 1/2 (Cohen et al. 2019, theorem 1 with p_B = 1 - p_A).

    Args:
        share: p, a lower bound of the class's probability under noise N(0, sigma^2 I), in [0, 1).
        sigma: of the noise, above 0.

    >>> round(certified_radius(0.99, 0.25), 4), certified_radius(0.3, 0.25)
    (0.5816, 0.0)
    """
    require(0 <= share < 1, "share", share, "a probability in [0, 1)")
    require(0 < sigma < float("inf"), "sigma", sigma, "a number above 0")
    return sigma * float(stats.norm.ppf(share)) if share > 0.5 else 0.0


def certificates(selecting: Tensor, estimating: Tensor, draws: int, sigma: float, alpha: float) -> list[Certificate]:
    """CERTIFY of Cohen et al. 2019: the first votes choose the class, the second, independent ones bound its share.

    Abstains where the Clopper-Pearson lower bound at 1 - alpha is not above 1/2. A certificate is wrong, for each
    example, with probability at most alpha.

    Args:
        selecting: (B, K), votes of the n0 draws.
        estimating: (B, K), votes of the n draws; a draw that predicted nothing is in none of them.
        draws: n.
        sigma: of the noise, above 0.
        alpha: in (0, 1).
    """
    found = []
    for chosen, votes in zip(selecting.argmax(dim=1).tolist(), estimating.long().tolist(), strict=True):
        share = clopper_pearson_lower(votes[chosen], draws, alpha)
        radius = certified_radius(share, sigma)
        found.append(Certificate(chosen, radius) if radius > 0 else Certificate(NO_PREDICTION, 0.0))
    return found
