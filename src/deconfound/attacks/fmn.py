"""FMN: steps on the margin, projected onto a ball that shrinks where they succeed, in L-infinity, L2 and L1.

Shapes: B examples, N that are still worked on; images, gradients (N, C, H, W), radii (N,), labels (B,) int64.
"""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import Any, get_args

import torch
from torch import Tensor

from deconfound.attacks.expectation import input_gradient
from deconfound.attacks.harness import cut
from deconfound.attacks.linearised import Start, started
from deconfound.attacks.losses import margin
from deconfound.attacks.minimum_norm import Chase, MinimumNorm, annealed, farthest, within
from deconfound.attacks.settings import check_threat, choice, described, number
from deconfound.core.protocols import Classifier
from deconfound.errors import require_whole
from deconfound.functional import norms

_DUAL = {"linf": "l1", "l2": "l2", "l1": "linf"}


@dataclass(frozen=True)
class FMN(MinimumNorm):
    """Fast minimum-norm attack (Pintor et al. 2021, algorithm 1).

    x <- project(x + alpha g / |g|_2) onto the box and the ball of radius e around the image, g the gradient of the
    margin; e <- min(e, closest) (1 - gamma) where x is adversarial, e (1 + gamma) where only an earlier x was, and
    (|x - image| + |margin| / |g|_dual) (1 + gamma), beyond the linearised boundary, where none was. alpha and gamma
    fall along a cosine.

    Args:
        threat: norm, radius and box.
        steps: gradient steps, one forward and one backward each.
        step_size: alpha at the first step, an L2 length; it falls to a hundredth.
        gamma: how much the radius changes at the first step; it falls to ``least_gamma``.
        least_gamma: at the last step.
        start: ``boundary``, the nearest point in the box where the model linearised at the image changes its
            prediction; ``clean``, the image itself, as the authors do.
        targets: how many other classes the boundary start looks at.
        draws: gradients are averaged over so many draws of a random model.
        halvings: ``nearest`` ends by bisecting the distance so often, one forward each, of the broken points only.
        name: in records; by default from the settings.

    Raises:
        InputError: a setting outside its range.

    Departures from the authors' code: the start; the bisection at the end; the projection, which is exact on ball and
    box together where theirs clips afterwards; the linearised distance is lengthened by gamma, since on a flat boundary
    it else ends on the boundary itself.

    >>> from deconfound.core.threat import ThreatModel
    >>> FMN(ThreatModel("l1", 10.0), steps=50).name
    'fmn-50'
    """

    _: KW_ONLY
    steps: int = 100
    step_size: float = 1.0
    gamma: float = 0.05
    least_gamma: float = 0.001
    start: Start = "boundary"
    targets: int = 9
    draws: int = 1

    def __post_init__(self) -> None:
        check_threat(self.threat)
        for field in ("steps", "targets", "draws"):
            require_whole(field, getattr(self, field))
        require_whole("halvings", self.halvings, 0)
        number("step_size", self.step_size, above=True)
        number("gamma", self.gamma, above=True, most=0.5)
        number("least_gamma", self.least_gamma, most=self.gamma)
        choice("start", self.start, get_args(Start))
        if not self.name:
            object.__setattr__(self, "name", f"fmn-{self.steps}")

    def settings(self) -> dict[str, Any]:
        """Every hyper-parameter, ready for JSON."""
        return described(
            "fmn",
            self.threat,
            steps=self.steps,
            step_size=float(self.step_size),
            gamma=float(self.gamma),
            least_gamma=float(self.least_gamma),
            start=self.start,
            targets=self.targets,
            draws=self.draws,
            halvings=self.halvings,
        )

    @property
    def _begins_clean(self) -> bool:
        return True

    def _climb(self, model: Classifier, chase: Chase) -> None:
        iterate = started(self.start, model, chase, self.targets, self.draws)
        radius = iterate.new_full((len(iterate),), torch.inf)
        for step in range(self.steps):
            if not len(iterate):
                return
            leaf = iterate.detach().requires_grad_()
            values, gradient = input_gradient(margin, model, leaf, chase.points, self.draws, step)
            won, index = chase.see(leaf)
            iterate, values, gradient, radius = cut(index, leaf.detach(), values, gradient, radius)
            radius = self._resized(chase, iterate, values, gradient, radius, won, step)
            direction = norms.steepest(gradient.flatten(1), "l2").view_as(gradient)
            alpha = annealed(self.step_size, self.step_size / 100, step, self.steps)
            moved = torch.add(iterate, direction, alpha=alpha)
            iterate = within(moved, chase.points.images, radius, self.threat)
        if len(iterate):
            chase.see(iterate)

    def _resized(
        self, chase: Chase, iterate: Tensor, values: Tensor, gradient: Tensor, radius: Tensor, won: Tensor, step: int
    ) -> Tensor:
        gamma, closest = annealed(self.gamma, self.least_gamma, step, self.steps), chase.radius
        steepness = norms.distance(gradient.flatten(1), _DUAL[self.threat.norm])
        gap = values.nan_to_num(0.0).abs().to(radius.dtype) / steepness.clamp_min(torch.finfo(radius.dtype).tiny)
        reach = self.threat.distance(iterate, chase.points.images) + gap
        missed = torch.where(torch.isfinite(closest), radius, reach) * (1 + gamma)
        radius = torch.where(won, torch.minimum(radius, closest) * (1 - gamma), missed)
        return radius.minimum(farthest(chase.points.images, self.threat))
