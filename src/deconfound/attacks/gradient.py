"""Projected gradient ascent: PGD with restarts, momentum (MI-FGSM) and any loss, in L-infinity, L2 and L1.

Shapes: B examples; images, gradients, velocities (B, C, H, W), labels (B,) int64.
"""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass, replace
from typing import Any, Literal, Self, get_args

import torch
from torch import Tensor

from deconfound.attacks.expectation import input_gradient
from deconfound.attacks.harness import Hunt, Keep, cut, hunt, maximise
from deconfound.attacks.losses import cross_entropy, name_of
from deconfound.attacks.points import Points
from deconfound.attacks.settings import check_step, check_threat, choice, described, number
from deconfound.core.guards import Mode
from deconfound.core.protocols import AttackLoss, Classifier, Judge
from deconfound.core.streams import Streams
from deconfound.core.threat import ThreatModel, parse_radius
from deconfound.core.types import Context
from deconfound.errors import InputError, require, require_whole

Start = Literal["uniform", "gaussian", "none", "given"]

# Zhang et al. 2019 start TRADES' inner attack there, because the KL has no gradient at x itself.
GAUSSIAN_START = 0.001


def start_points(start: Start, threat: ThreatModel, points: Points, streams: Streams) -> Tensor:
    """The first iterate, inside the threat model: uniform in the ball, x + 0.001 N(0, I), ``context["start"]``, or x.

    Raises:
        InputError: ``given`` without ``context["start"]`` of the images' shape.
    """
    images = points.images
    if start == "uniform":
        return threat.random_start(images, streams)
    if start == "gaussian":
        noise = streams.fold("gaussian").normal(tuple(images.shape[1:]), images.dtype)
        return threat.project(images + GAUSSIAN_START * noise, images)
    if start == "given":
        given = points.context.get("start")
        fits = given is not None and given.shape == images.shape
        found = None if given is None else tuple(given.shape)
        require(fits, "context['start']", found, f"images of shape {tuple(images.shape)}, because start='given'")
        assert given is not None
        return threat.project(given.to(images), images)
    return images


def ascend(gradient: Tensor, iterate: Tensor, images: Tensor, threat: ThreatModel, step: float) -> Tensor:
    """One step: x <- project(x + step u), u the steepest direction of the norm."""
    direction = threat.steepest(gradient, iterate)
    return threat.project(torch.add(iterate, direction, alpha=step), images)


def accumulate(velocity: Tensor | None, gradient: Tensor, momentum: float) -> Tensor:
    """Momentum: v <- momentum v + g / mean|g| per example (Dong et al. 2018, eq. 6).

    The mean differs from their |g|_1 by the factor 1/d, which no steepest step sees.
    """
    size = gradient.abs().flatten(1).mean(dim=1).clamp_min(torch.finfo(gradient.dtype).tiny)
    unit = gradient / size.view(-1, *[1] * (gradient.ndim - 1))
    return unit if velocity is None else velocity.mul(momentum).add_(unit)


@dataclass(frozen=True)
class PGD:
    """Projected gradient descent (Madry et al. 2018), x <- project(x + step_size * steepest(grad loss(x))).

    Args:
        threat: norm, radius and box.
        steps: gradient steps of each restart.
        step_size: in the norm of the threat model, a number or a fraction; None for relative_step eps / steps.
        relative_step: the length of all steps together in units of eps, where step_size is None (2.5: Madry et al.).
        restarts: climbs from fresh starts; later ones work on the points that still stand.
        momentum: 0 for PGD; above 0 the gradients, each divided by its mean size, are accumulated (MI-FGSM, Dong et
            al. 2018).
        loss: what is climbed.
        start: ``uniform`` in the ball, ``gaussian`` x + 0.001 N(0, I), ``none`` the image itself, ``given``
            ``context["start"]``; all projected.
        draws: the gradient is averaged over so many draws of a random model (EOT, Athalye et al. 2018).
        keep: ``first_adversarial`` for evaluation: the clean image where the judge already errs, the first adversarial
            iterate where there is one, the clean image elsewhere. ``last`` for training: every point takes every step.
        mode: of the network while it is attacked; ``train`` lets BatchNorm see the attack's images.
        name: in records, and for the random numbers of an evaluation; by default from the settings.

    Raises:
        InputError: a setting outside its range, or settings that contradict each other.

    A gradient that is not finite or does not exist counts as 0.

    >>> PGD(ThreatModel("linf", 0.3), steps=40).step
    0.01875
    """

    threat: ThreatModel
    _: KW_ONLY
    steps: int = 20
    step_size: float | str | None = None
    relative_step: float = 2.5
    restarts: int = 1
    momentum: float = 0.0
    loss: AttackLoss = cross_entropy
    start: Start = "uniform"
    draws: int = 1
    keep: Keep = "first_adversarial"
    mode: Mode = "eval"
    name: str = ""

    def __post_init__(self) -> None:
        check_threat(self.threat)
        require_whole("steps", self.steps)
        require_whole("restarts", self.restarts)
        require_whole("draws", self.draws)
        if self.step_size is not None:
            step = parse_radius(self.step_size, "step_size")
            require(step > 0, "step_size", self.step_size, "a number above 0")
            check_step(step, self.threat)
        number("relative_step", self.relative_step, above=True)
        number("momentum", self.momentum)
        require(callable(self.loss), "loss", self.loss, "a function (model, images, labels, context) -> (B,)")
        for field, value, options in (
            ("start", self.start, Start),
            ("keep", self.keep, Keep),
            ("mode", self.mode, Mode),
        ):
            choice(field, value, get_args(options))
        if self.restarts > 1 and (self.keep == "last" or self.start in ("none", "given")):
            cause = "keep='last'" if self.keep == "last" else f"start={self.start!r}, which repeats the same climb"
            raise InputError("restarts", self.restarts, f"1 with {cause}")
        if not self.name:
            kind = "mi-fgsm" if self.momentum else "pgd"
            repeats = f"x{self.restarts}" if self.restarts > 1 else ""
            object.__setattr__(self, "name", f"{kind}-{self.steps}{repeats}")

    @property
    def step(self) -> float:
        """The step size in use."""
        if self.step_size is None:
            return self.relative_step * self.threat.eps / self.steps
        return parse_radius(self.step_size, "step_size")

    def at(self, threat: ThreatModel) -> Self:
        """The same attack in another threat model; a default step size follows the radius."""
        return replace(self, threat=threat)

    def settings(self) -> dict[str, Any]:
        """Every hyper-parameter, ready for JSON."""
        return described(
            "pgd",
            self.threat,
            steps=self.steps,
            step_size=self.step,
            restarts=self.restarts,
            momentum=float(self.momentum),
            loss=name_of(self.loss),
            start=self.start,
            draws=self.draws,
            keep=self.keep,
            mode=self.mode,
        )

    def __call__(
        self,
        model: Classifier,
        images: Tensor,
        labels: Tensor,
        streams: Streams | None = None,
        context: Context | None = None,
        *,
        judge: Judge | Classifier | None = None,
    ) -> Tensor:
        """Perturbed images (B, C, H, W) inside the threat model.

        Args:
            model: the surrogate, images -> logits (B, K).
            images: (B, C, H, W) in the box, float32 or float64.
            labels: (B,) int64.
            streams: one per example; by default ``Streams(0, range(B))``.
            context: per-example tensors for the loss and the start.
            judge: decides what is adversarial; a classifier or a judge, by default the surrogate's largest logit.

        Raises:
            InputError: shapes or types that do not fit each other.
        """
        with torch.inference_mode(False):
            points = Points.of(images, labels, streams, context)
            if self.keep == "last":
                return maximise(self._last, self.threat, self.mode, model, points)
            clean = self.start == "none"
            return hunt(self._restarts, self.threat, self.mode, model, points, judge, begins_clean=clean)

    def _start(self, points: Points, restart: int) -> Tensor:
        return start_points(self.start, self.threat, points, points.streams.fold("restart", restart))

    def _last(self, model: Classifier, points: Points) -> Tensor:
        iterate, velocity = self._start(points, 0), None
        for step in range(self.steps):
            iterate = iterate.detach().requires_grad_()
            _, gradient = input_gradient(self.loss, model, iterate, points, self.draws, step)
            if self.momentum:
                gradient = velocity = accumulate(velocity, gradient, self.momentum)
            iterate = ascend(gradient, iterate.detach(), points.images, self.threat, self.step)
        return iterate

    def _restarts(self, model: Classifier, state: Hunt) -> None:
        for restart in range(self.restarts):
            self._climb(model, state, restart)
            if not len(state.points):
                return

    def _climb(self, model: Classifier, state: Hunt, restart: int) -> None:
        iterate, velocity = self._start(state.points, restart), None
        for step in range(self.steps):
            iterate = iterate.detach().requires_grad_()
            _, gradient = input_gradient(self.loss, model, iterate, state.points, self.draws, restart, step)
            index = state.drop_fallen(iterate)
            if index is not None:
                if not len(index):
                    return
                iterate, gradient = cut(index, iterate, gradient)
                velocity = None if velocity is None else velocity[index]
            if self.momentum:
                gradient = velocity = accumulate(velocity, gradient, self.momentum)
            iterate = ascend(gradient, iterate.detach(), state.points.images, self.threat, self.step)
        state.drop_fallen(iterate, ask_all=True)
