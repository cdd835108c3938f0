"""SPSA: gradients estimated from losses at random points nearby.

Shapes: B examples, P pairs of points; images, directions, gradients (B, C, H, W), labels (B,) int64, losses (B,).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import KW_ONLY, dataclass
from typing import Any

import torch
from torch import Tensor

from deconfound.attacks.expectation import expected_loss
from deconfound.attacks.harness import Hunt, cut
from deconfound.attacks.hunting import HuntingAttack
from deconfound.attacks.losses import margin, name_of
from deconfound.attacks.points import Points
from deconfound.attacks.settings import check_step, check_threat, described, number
from deconfound.core.protocols import AttackLoss, Classifier
from deconfound.core.streams import Streams
from deconfound.core.threat import parse_radius
from deconfound.errors import require, require_whole

# Kingma & Ba 2015, as in the authors' code.
FIRST_DECAY, SECOND_DECAY, STABILISER = 0.9, 0.999, 1e-8


def directions(points: Points, pairs: int, streams: Streams) -> Iterator[Tensor]:
    """One Rademacher direction after the other, +1 or -1 for each element; pair p is the same in any batch."""
    for pair in range(pairs):
        coins = streams.fold("pair", pair).uniform(tuple(points.images.shape[1:]))
        yield torch.where(coins < 0.5, -1.0, 1.0).to(points.images.dtype)


def estimate(
    loss: AttackLoss,
    model: Classifier,
    iterate: Tensor,
    points: Points,
    signs: Iterator[Tensor],
    pairs: int,
    *,
    delta: float = 0.01,
    draws: int = 1,
    batch_size: int = 1024,
    tick: tuple[int | str, ...] = (),
) -> Tensor:
    """Spall's estimate: g = 1/P sum_p v_p (loss(x + delta v_p) - loss(x - delta v_p)) / (2 delta), (B, C, H, W).

    On a linear loss its expectation is the gradient. Every pair of an example sees the same draws of a random model,
    on both sides. A difference that is not finite counts as 0.

    Args:
        loss: what is climbed.
        model: the surrogate.
        iterate: x; the points around it may lie outside the ball and the box.
        points: labels, streams and context of the same examples.
        signs: P directions v of +1 and -1.
        pairs: P.
        delta: how far the points are away, in every element.
        draws: the losses are averaged over so many draws of a random model.
        batch_size: the most images in one forward, as long as one pair of each example fits.
        tick: what tells this call from other ones.
    """
    total = torch.zeros_like(iterate)
    together = max(1, batch_size // (2 * len(iterate)))
    for begin in range(0, pairs, together):
        steps = [next(signs) for _ in range(min(together, pairs - begin))]
        around = torch.cat([iterate + side * v for v in steps for side in (delta, -delta)])
        values = expected_loss(loss, model, around, _repeated(points, around), draws, *tick)
        ahead, behind = values.view(len(steps), 2, len(iterate)).unbind(1)
        slopes = torch.nan_to_num((ahead - behind) / (2 * delta), 0.0, 0.0, 0.0).to(iterate.dtype)
        for slope, v in zip(slopes, steps, strict=True):  # in this order, whatever fits into a forward
            total.addcmul_(v, slope.view(-1, *[1] * (v.ndim - 1)))
    return total / pairs


def _repeated(points: Points, images: Tensor) -> Points:
    rows = torch.arange(len(points), device=images.device).repeat(len(images) // len(points))
    context = {name: value[rows] for name, value in points.context.items()}
    return Points(images, points.labels[rows], points.streams[rows], context, points.place[rows])


@dataclass
class Adam:
    """The running means of gradients and of their squares (Kingma & Ba 2015)."""

    first: Tensor
    second: Tensor
    steps: int = 0

    def direction(self, gradient: Tensor) -> Tensor:
        """M / (sqrt(v) + 1e-8), both without their bias to zero."""
        self.steps += 1
        self.first = FIRST_DECAY * self.first + (1 - FIRST_DECAY) * gradient
        self.second = SECOND_DECAY * self.second + (1 - SECOND_DECAY) * gradient.square()
        mean = self.first / (1 - FIRST_DECAY**self.steps)
        return mean / ((self.second / (1 - SECOND_DECAY**self.steps)).sqrt() + STABILISER)


@dataclass(frozen=True)
class SPSA(HuntingAttack):
    """Simultaneous perturbation stochastic approximation (Uesato et al. 2018, algorithm 1), image by image.

    x <- project(x + step_size u). L-infinity, as in the paper: u is Adam's direction from the estimated gradients. L2
    and L1, which the paper leaves out: u is the norm's steepest step along Adam's mean gradient, since its elementwise
    scale would turn every step towards a corner.

    Args:
        threat: norm, radius and box.
        steps: estimates and steps of each restart.
        pairs: pairs of points in an estimate.
        delta: their distance from the iterate in every element. They may leave the ball and the box, as in the paper.
        step_size: in the norm of the threat model (L-infinity: Adam's learning rate), a number or a fraction; None for
            2.5 eps / steps. The paper has 0.01 at 100 steps.
        loss: what is climbed; the logit margin by default.
        restarts: climbs from fresh uniform starts; later ones work on the points that still stand.
        draws: losses are averaged over so many draws of a random model.
        batch_size: the most images in one forward, as long as one pair of each example fits.
        name: in records, and for the random numbers of an evaluation; by default from the settings.

    A restart sends every standing point 2 pairs steps + steps + 1 times through the surrogate (each times ``draws``).

    Raises:
        InputError: a setting outside its range.

    >>> from deconfound.core.threat import ThreatModel
    >>> SPSA(ThreatModel("linf", 0.3), steps=30).step
    0.025
    """

    _: KW_ONLY
    steps: int = 20
    pairs: int = 25
    delta: float = 0.01
    step_size: float | str | None = None
    loss: AttackLoss = margin
    restarts: int = 1
    draws: int = 1
    batch_size: int = 1024
    name: str = ""

    def __post_init__(self) -> None:
        check_threat(self.threat)
        for field in ("steps", "pairs", "restarts", "draws"):
            require_whole(field, getattr(self, field))
        require_whole("batch_size", self.batch_size, 2)
        number("delta", self.delta, above=True)
        if self.step_size is not None:
            require(parse_radius(self.step_size, "step_size") > 0, "step_size", self.step_size, "a number above 0")
            check_step(self.step, self.threat)
        require(callable(self.loss), "loss", self.loss, "a function (model, images, labels, context) -> (B,)")
        if not self.name:
            repeats = f"x{self.restarts}" if self.restarts > 1 else ""
            object.__setattr__(self, "name", f"spsa-{self.steps}{repeats}")

    @property
    def step(self) -> float:
        """The step size in use."""
        if self.step_size is None:
            return 2.5 * self.threat.eps / self.steps
        return parse_radius(self.step_size, "step_size")

    def settings(self) -> dict[str, Any]:
        """Every hyper-parameter, ready for JSON."""
        return described(
            "spsa",
            self.threat,
            steps=self.steps,
            pairs=self.pairs,
            delta=float(self.delta),
            step_size=self.step,
            loss=name_of(self.loss),
            restarts=self.restarts,
            draws=self.draws,
            batch_size=self.batch_size,
        )

    def body(self, surrogate: Classifier, hunt: Hunt) -> None:
        """Restart by restart, without gradients."""
        with torch.no_grad():
            for restart in range(self.restarts):
                self._climb(surrogate, hunt, restart)
                if not len(hunt.points):
                    return

    def _climb(self, surrogate: Classifier, hunt: Hunt, restart: int) -> None:
        iterate = self.threat.random_start(hunt.points.images, hunt.points.streams.fold("spsa", restart))
        adam = Adam(torch.zeros_like(iterate), torch.zeros_like(iterate))
        for step in range(self.steps + 1):
            expected_loss(self.loss, surrogate, iterate, hunt.points, self.draws, "iterate", restart, step)
            index = hunt.drop_fallen(iterate, ask_all=step == self.steps)
            if index is not None:
                if not len(index):
                    return
                iterate, adam.first, adam.second = cut(index, iterate, adam.first, adam.second)
            if step < self.steps:
                gradient = self._gradient(surrogate, iterate, hunt.points, restart, step)
                iterate = self._moved(iterate, adam, gradient, hunt.points.images)

    def _gradient(self, surrogate: Classifier, iterate: Tensor, points: Points, restart: int, step: int) -> Tensor:
        signs = directions(points, self.pairs, points.streams.fold("directions", restart, step))
        return estimate(
            self.loss,
            surrogate,
            iterate,
            points,
            signs,
            self.pairs,
            delta=self.delta,
            draws=self.draws,
            batch_size=self.batch_size,
            tick=("estimate", restart, step),
        )

    def _moved(self, iterate: Tensor, adam: Adam, gradient: Tensor, images: Tensor) -> Tensor:
        direction = adam.direction(gradient)
        if self.threat.norm != "linf":
            direction = self.threat.steepest(adam.first, iterate)
        return self.threat.project(torch.add(iterate, direction, alpha=self.step), images)
