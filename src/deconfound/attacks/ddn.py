"""DDN: steps of free direction on a sphere whose radius shrinks where they succeed, in L2.

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
from deconfound.attacks.losses import margin, name_of
from deconfound.attacks.minimum_norm import Chase, MinimumNorm, annealed, farthest, refuse_norm, within
from deconfound.attacks.settings import check_threat, choice, described, number
from deconfound.core.protocols import AttackLoss, Classifier
from deconfound.core.threat import ThreatModel
from deconfound.errors import require, require_whole
from deconfound.functional import norms

# Rony et al. 2019, algorithm 1: the step size falls from 1 to 0.01.
LAST_SHARE = 0.01


@dataclass(frozen=True)
class DDN(MinimumNorm):
    """Decoupled direction and norm (Rony et al. 2019, algorithm 1), L2.

    d <- d + alpha g / |g|_2, g the gradient of the loss at image + d; e <- e (1 - gamma) where image + d is
    adversarial, e (1 + gamma) elsewhere; then d is brought to the norm e inside the box. alpha falls along a cosine.

    Args:
        threat: norm L2, radius and box.
        steps: gradient steps, one forward and one backward each.
        step_size: alpha at the first step, in units of the first e; it falls to a hundredth.
        gamma: how much the radius changes at each step.
        radius: e at the first step from the clean image; the boundary start begins with its own distance.
        loss: what is climbed.
        start: ``boundary``, the nearest point in the box where the model linearised at the image changes its
            prediction; ``clean``, the image itself, as the authors do.
        targets: how many other classes the boundary start looks at.
        draws: gradients are averaged over so many draws of a random model.
        halvings: ``nearest`` ends by bisecting the distance so often, one forward each, of the broken points only.
        name: in records; by default from the settings.

    Raises:
        InputError: another norm, or a setting outside its range.

    Departures from the authors' code: the margin where theirs climbs the cross-entropy, which follows the nearest
    boundary less closely and vanishes on saturated networks; the start, whose distance is the unit of alpha (theirs
    is 1); the bisection at the end; no rounding to 256 levels; the step onto
    the sphere knows the box, where theirs scales, clips, and is left with a smaller norm; a gradient of zero is left
    at zero, where theirs draws a random direction.

    >>> DDN(ThreatModel("l2", 0.5)).name
    'ddn-100'
    """

    _: KW_ONLY
    steps: int = 100
    step_size: float = 1.0
    gamma: float = 0.05
    radius: float = 1.0
    loss: AttackLoss = margin
    start: Start = "boundary"
    targets: int = 9
    draws: int = 1

    def __post_init__(self) -> None:
        check_threat(self.threat)
        refuse_norm("DDN", self.threat.norm, ("l2",), "FMN or FAB")
        for field in ("steps", "targets", "draws"):
            require_whole(field, getattr(self, field))
        require_whole("halvings", self.halvings, 0)
        number("step_size", self.step_size, above=True)
        number("gamma", self.gamma, above=True, most=0.5)
        number("radius", self.radius, above=True)
        require(callable(self.loss), "loss", self.loss, "a function (model, images, labels, context) -> (B,)")
        choice("start", self.start, get_args(Start))
        if not self.name:
            object.__setattr__(self, "name", f"ddn-{self.steps}")

    def settings(self) -> dict[str, Any]:
        """Every hyper-parameter, ready for JSON."""
        return described(
            "ddn",
            self.threat,
            steps=self.steps,
            step_size=float(self.step_size),
            gamma=float(self.gamma),
            radius=float(self.radius),
            loss=name_of(self.loss),
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
        first = self.threat.distance(iterate, chase.points.images)
        radius = first if self.start == "boundary" else torch.full_like(first, self.radius)
        unit = radius.view(-1, *[1] * (iterate.ndim - 1))
        for step in range(self.steps):
            if not len(iterate):
                return
            leaf = iterate.detach().requires_grad_()
            _, gradient = input_gradient(self.loss, model, leaf, chase.points, self.draws, step)
            won, index = chase.see(leaf)
            iterate, gradient, radius, unit = cut(index, leaf.detach(), gradient, radius, unit)
            radius = radius * torch.where(won, 1 - self.gamma, 1 + self.gamma).to(radius.dtype)
            radius = radius.minimum(farthest(chase.points.images, self.threat))
            direction = norms.steepest(gradient.flatten(1), "l2").view_as(gradient)
            alpha = annealed(self.step_size, LAST_SHARE * self.step_size, step, self.steps)
            offset = torch.addcmul(iterate - chase.points.images, direction, unit, value=alpha)
            iterate = on_sphere(offset, chase.points.images, radius, self.threat)
        if len(iterate):
            chase.see(iterate)


def on_sphere(offset: Tensor, images: Tensor, radius: Tensor, threat: ThreatModel) -> Tensor:
    """The point image + clip(t offset) of the box with the t that makes the L2 norm ``radius`` (N,), if any does."""
    size = norms.distance(offset.flatten(1), "l2").clamp_min(torch.finfo(offset.dtype).tiny)
    # Sixteen radii long before it is projected, because what the box cuts off must be made up by other elements.
    longer = (16 * radius / size).view(-1, *[1] * (offset.ndim - 1))
    return within(images + offset * longer, images, radius, threat)
