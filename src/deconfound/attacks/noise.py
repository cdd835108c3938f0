"""Random noise: perturbations that know nothing of the model.

Shapes: B examples; images (B, C, H, W), labels (B,) int64.
"""

from __future__ import annotations

import math
from dataclasses import KW_ONLY, dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from deconfound.attacks.harness import Hunt
from deconfound.attacks.hunting import HuntingAttack
from deconfound.attacks.points import Points
from deconfound.attacks.settings import check_threat, choice, described, number
from deconfound.core.protocols import Classifier
from deconfound.core.threat import ThreatModel
from deconfound.errors import require, require_whole

Kind = Literal["uniform", "gaussian"]


def scale(threat: ThreatModel, elements: int) -> float:
    """The standard deviation at which Gaussian noise fills the ball.

    L-infinity: eps / 2, so one element in twenty is clipped. L2: eps / sqrt(n), where the root of the mean squared norm
    is eps. L1: eps sqrt(pi / 2) / n, where the mean norm is eps.

    >>> scale(ThreatModel("l2", 0.5), 100)
    0.05
    """
    if threat.norm == "linf":
        return threat.eps / 2
    return threat.eps / math.sqrt(elements) if threat.norm == "l2" else threat.eps * math.sqrt(math.pi / 2) / elements


@dataclass(frozen=True)
class Noise(HuntingAttack):
    """Random noise inside the threat model: the first of several tries that errs.

    Args:
        threat: norm, radius and box.
        kind: ``uniform`` in the ball, or ``gaussian`` x + sigma N(0, I); both projected onto ball and box.
        tries: independent draws, each one forward of the points that still stand.
        sigma: standard deviation of Gaussian noise, in pixels; None for ``scale``.
        name: in records, and for the random numbers of an evaluation; by default from the settings.

    Raises:
        InputError: a setting outside its range, sigma for uniform noise.

    >>> Noise(ThreatModel("linf", 0.1), kind="gaussian").name
    'noise-gaussian-20'
    """

    _: KW_ONLY
    kind: Kind = "uniform"
    tries: int = 20
    sigma: float | None = None
    name: str = ""

    def __post_init__(self) -> None:
        check_threat(self.threat)
        choice("kind", self.kind, get_args(Kind))
        require_whole("tries", self.tries)
        if self.sigma is not None:
            number("sigma", self.sigma, above=True)
            require(self.kind == "gaussian", "sigma", self.sigma, f"none with kind={self.kind!r}; gaussian has one")
        if not self.name:
            object.__setattr__(self, "name", f"noise-{self.kind}-{self.tries}")

    def settings(self) -> dict[str, Any]:
        """Every hyper-parameter, ready for JSON; a sigma of None is ``scale``, which depends on the images."""
        return described("noise", self.threat, noise=self.kind, tries=self.tries, sigma=self.sigma)

    def body(self, surrogate: Classifier, hunt: Hunt) -> None:
        """Try by try."""
        for attempt in range(self.tries):
            hunt.drop_fallen(self.candidates(hunt.points, attempt), ask_all=attempt == self.tries - 1)
            if not len(hunt.points):
                return

    def candidates(self, points: Points, attempt: int) -> Tensor:
        """The noisy images of one try, inside the threat model, (B, C, H, W)."""
        images, streams = points.images, points.streams.fold("noise", attempt)
        if self.kind == "uniform":
            return self.threat.random_start(images, streams)
        sigma = scale(self.threat, images[0].numel()) if self.sigma is None else self.sigma
        normal = streams.normal(tuple(images.shape[1:]), images.dtype)
        return self.threat.project(torch.add(images, normal, alpha=sigma), images)
