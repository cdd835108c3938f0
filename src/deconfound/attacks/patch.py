"""An adversarial patch: one window of unlimited amplitude.

Shapes: B examples; images, gradients (B, C, H, W), labels (B,) int64, windows (B, 1, H, W) bool, corners (B,) int64.
"""

from __future__ import annotations

import math
from dataclasses import KW_ONLY, dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from deconfound.attacks.expectation import input_gradient
from deconfound.attacks.harness import Hunt, cut
from deconfound.attacks.hunting import HuntingAttack
from deconfound.attacks.losses import margin, name_of
from deconfound.attacks.points import Points
from deconfound.attacks.settings import choice, described, number
from deconfound.attacks.whole_box import whole_box
from deconfound.core.protocols import AttackLoss, Classifier
from deconfound.errors import require, require_whole

Location = Literal["searched", "random"]


def window_size(share: float, height: int, width: int) -> tuple[int, int]:
    """Height and width of the window: near the image's shape, its area at most the share, but at least one pixel.

    >>> window_size(0.05, 32, 32), window_size(0.05, 8, 8)
    ((7, 7), (2, 1))
    """
    area = share * height * width + 1e-9
    tall = min(max(1, round(height * math.sqrt(share))), height, max(1, int(area)))
    return tall, min(max(1, int(area / tall)), width)


def windows(top: Tensor, left: Tensor, size: tuple[int, int], height: int, width: int) -> Tensor:
    """The pixels of each example's window, (B, 1, H, W) bool."""
    rows = torch.arange(height, device=top.device)
    columns = torch.arange(width, device=top.device)
    tall = (rows >= top[:, None]) & (rows < top[:, None] + size[0])
    wide = (columns >= left[:, None]) & (columns < left[:, None] + size[1])
    return (tall[:, :, None] & wide[:, None, :])[:, None]


@dataclass(frozen=True)
class Patch(HuntingAttack):
    """Signed gradient ascent inside one window per image, x <- clip(x + step_size sign(grad loss(x)) in the window).

    Args:
        threat: only its box counts; the attack's own threat model is the whole box.
        share: of the image's area that the window may cover.
        steps: gradient steps of each restart.
        step_size: in units of the box's width; None for 2.5 / steps.
        restarts: climbs from fresh windows and patterns; later ones work on the points that still stand.
        location: ``random``, one uniformly drawn window for each restart; ``searched`` begins with the window that
            gains most to first order, max over windows of the sum of max(g (high - x), g (low - x)), which on a linear
            loss is the best one, and goes on with random ones.
        loss: what is climbed.
        draws: the gradient is averaged over so many draws of a random model (EOT).
        name: in records, and for the random numbers of an evaluation; by default from the settings.

    Raises:
        InputError: a setting outside its range.

    After Brown et al. 2017, with a patch of its own for each image and place instead of one for all under random
    transformations: the stronger attacker. The window starts from a uniform pattern.

    >>> from deconfound.core.threat import ThreatModel
    >>> Patch(ThreatModel("linf", "8/255"), share=0.1).settings()["bound"]
    'one window of at most 10 % of the area'
    """

    _: KW_ONLY
    share: float = 0.05
    steps: int = 40
    step_size: float | None = None
    restarts: int = 3
    location: Location = "searched"
    loss: AttackLoss = margin
    draws: int = 1
    name: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "threat", whole_box(self.threat))
        number("share", self.share, above=True, most=1)
        for field in ("steps", "restarts", "draws"):
            require_whole(field, getattr(self, field))
        if self.step_size is not None:
            number("step_size", self.step_size, above=True)
        choice("location", self.location, ("searched", "random"))
        require(callable(self.loss), "loss", self.loss, "a function (model, images, labels, context) -> (B,)")
        if not self.name:
            repeats = f"x{self.restarts}" if self.restarts > 1 else ""
            object.__setattr__(self, "name", f"patch-{100 * self.share:g}%-{self.steps}{repeats}")

    @property
    def step(self) -> float:
        """The step size in use, in units of the box's width."""
        return 2.5 / self.steps if self.step_size is None else float(self.step_size)

    def settings(self) -> dict[str, Any]:
        """Every hyper-parameter, ready for JSON."""
        return described(
            "patch",
            self.threat,
            share=float(self.share),
            steps=self.steps,
            step_size=self.step,
            restarts=self.restarts,
            location=self.location,
            loss=name_of(self.loss),
            draws=self.draws,
            bound=f"one window of at most {100 * self.share:g} % of the area",
        )

    def body(self, surrogate: Classifier, hunt: Hunt) -> None:
        """Restart by restart, the first where a search of the place says, if it is searched."""
        for restart in range(self.restarts):
            searched = self.location == "searched" and restart == 0
            self._climb(surrogate, hunt, self._window(surrogate, hunt.points, restart, searched), restart)
            if not len(hunt.points):
                return

    def _window(self, surrogate: Classifier, points: Points, restart: int, searched: bool) -> Tensor:
        height, width = points.images.shape[2:]
        size = window_size(self.share, height, width)
        tall, wide = height - size[0] + 1, width - size[1] + 1
        corner = points.streams.fold("window", restart).integers(0, tall * wide)
        if searched:
            gain, best = self._gains(surrogate, points, size).max(dim=1)
            corner = torch.where(gain > 0, best, corner)  # without any gradient one place is as good as another
        return windows(corner // wide, corner % wide, size, height, width)

    def _gains(self, surrogate: Classifier, points: Points, size: tuple[int, int]) -> Tensor:
        """What each window promises to first order, (B, windows)."""
        low, high = self.threat.box
        _, gradient = input_gradient(self.loss, surrogate, points.images, points, self.draws, "search")
        reach = torch.maximum(gradient * (high - points.images), gradient * (low - points.images))
        return F.avg_pool2d(reach.sum(dim=1, keepdim=True), size, stride=1).flatten(1)

    def _climb(self, surrogate: Classifier, hunt: Hunt, window: Tensor, restart: int) -> None:
        low, high = self.threat.box
        pattern = hunt.points.streams.fold("pattern", restart).uniform(tuple(hunt.points.images.shape[1:]))
        pattern = (low + (high - low) * pattern).to(hunt.points.images.dtype).clamp(low, high)
        iterate = torch.where(window, pattern, hunt.points.images)
        for step in range(self.steps):
            iterate = iterate.detach().requires_grad_()
            _, gradient = input_gradient(self.loss, surrogate, iterate, hunt.points, self.draws, restart, step)
            index = hunt.drop_fallen(iterate)
            if index is not None:
                if not len(index):
                    return
                iterate, gradient, window = cut(index, iterate, gradient, window)
            moved = torch.add(iterate.detach(), gradient.sign(), alpha=self.step * (high - low)).clamp(low, high)
            iterate = torch.where(window, moved, hunt.points.images)
        hunt.drop_fallen(iterate, ask_all=True)
