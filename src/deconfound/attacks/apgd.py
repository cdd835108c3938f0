"""AutoPGD: untargeted and targeted, on any loss, in L-infinity, L2 and L1.

Shapes: B examples, K classes, T targets; images, gradients (B, C, H, W), labels (B,) int64.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from deconfound.attacks.climb import Climb, windows
from deconfound.attacks.expectation import expected_loss, input_gradient
from deconfound.attacks.harness import Hunt, Maximiser, cut
from deconfound.attacks.hunting import HuntingAttack
from deconfound.attacks.judging import Examiner
from deconfound.attacks.losses import cross_entropy, dlr, margin, name_of, targeted_dlr, targeted_margin
from deconfound.attacks.points import Points
from deconfound.attacks.settings import check_threat, choice, described, number
from deconfound.attacks.targets import pairs, targets_of
from deconfound.core.protocols import AttackLoss, Classifier
from deconfound.core.threat import ThreatModel
from deconfound.errors import InputError, require, require_whole

Schedule = Literal["flat", "large-eps"]
Start = Literal["uniform", "none"]
# Croce & Hein 2021, section 4: radii in units of eps, with the share of the steps that each takes.
LARGE_EPS = ((3.0, 0.3), (2.0, 0.3), (1.0, 0.4))
_SHORT: Mapping[Any, str] = {
    cross_entropy: "ce",
    dlr: "dlr",
    margin: "margin",
    targeted_dlr: "t",
    targeted_margin: "t-margin",
}
_TARGETED = (targeted_dlr, targeted_margin)


@dataclass(frozen=True)
class APGD(HuntingAttack):
    """AutoPGD (Croce & Hein 2020; L1: 2021): no step size to choose, momentum, stalled climbs go on from their best.

    Args:
        threat: norm, radius and box.
        steps: of each climb.
        restarts: climbs from fresh starts; later ones work on the points that still stand.
        loss: what is climbed; with targets one that reads ``context["target"]``.
        targets: 0 for untargeted; T for the min(T, K - 1) classes that rank highest on the clean image (or the one of
            ``context["target"]``), which the default loss ``targeted_dlr`` climbs one after the other.
        rho: the step is halved where fewer than this share of a window's steps raised the loss.
        draws: loss and gradient are means over so many draws of a random model (EOT); the best point is chosen by them.
        start: of the first restart: ``uniform`` in the ball, or ``none``, the image itself; the others are uniform.
        schedule: ``large-eps`` starts with three and two times eps before eps itself (the L1 way of AutoAttack).
        rows: pairs of point and target climbed together, if there are not more points than that; changes no verdict.
        whole: every point takes every step of one climb and comes back at its best, fallen or not; nothing is judged.
        name: in records, and for the random numbers of an evaluation; by default from the settings.

    Raises:
        InputError: a setting outside its range, or settings that contradict each other.

    Departures from AutoAttack's code: points leave the climb when they fall, targets are climbed side by side, the last
    gradient (which nothing uses) is not taken, L2 projections onto ball and box are exact, random starts are uniform
    in the ball (theirs is stretched to its surface) except in L1 at a fixed radius, where both are sparse, and in L1 no
    step is spent on pixels that the box blocks.

    >>> APGD(ThreatModel("linf", 0.3)).name, APGD(ThreatModel("linf", 0.3), targets=9).name
    ('apgd-ce-100', 'apgd-t-100x9')
    """

    _: KW_ONLY
    steps: int = 100
    restarts: int = 1
    loss: AttackLoss | None = None
    targets: int = 0
    rho: float = 0.75
    draws: int = 1
    start: Start = "uniform"
    schedule: Schedule = "flat"
    rows: int = 256
    whole: bool = False
    name: str = ""

    def __post_init__(self) -> None:
        check_threat(self.threat)
        for field, least in (("steps", 1), ("restarts", 1), ("targets", 0), ("draws", 1), ("rows", 1)):
            require_whole(field, getattr(self, field), least)
        number("rho", self.rho, above=True, most=1.0)
        choice("start", self.start, get_args(Start))
        choice("schedule", self.schedule, get_args(Schedule))
        if self.loss is None:
            object.__setattr__(self, "loss", targeted_dlr if self.targets else cross_entropy)
        require(callable(self.loss), "loss", self.loss, "a function (model, images, labels, context) -> (B,)")
        if self.loss in _TARGETED and not self.targets:
            raise InputError("targets", 0, f"at least 1 with the loss {name_of(self.loss)}")
        require(
            self.schedule == "flat" or self.steps >= len(LARGE_EPS), "steps", self.steps, "at least 3 for large-eps"
        )
        alone = self.restarts == 1 and not self.targets and self.schedule == "flat"
        require(alone or not self.whole, "whole", True, "False with restarts, targets or a schedule")
        if not self.name:
            object.__setattr__(self, "name", self._named())

    def _named(self) -> str:
        assert self.loss is not None
        many = f"x{self.targets}" if self.targets else ""
        again = f"x{self.restarts}" if self.restarts > 1 else ""
        eot = f"-eot{self.draws}" if self.draws > 1 else ""
        return f"apgd-{_SHORT.get(self.loss, name_of(self.loss))}-{self.steps}{many}{again}{eot}"

    def settings(self) -> dict[str, Any]:
        """Every hyper-parameter, ready for JSON."""
        assert self.loss is not None
        names = ("steps", "restarts", "targets", "rho", "draws", "start", "schedule")
        own = {name: getattr(self, name) for name in names}
        return described(
            "apgd", self.threat, **own, loss=name_of(self.loss), keep="best" if self.whole else "first_adversarial"
        )

    def _whole(self) -> Maximiser | None:
        return self._furthest if self.whole else None

    def _furthest(self, model: Classifier, points: Points) -> Tensor:
        """The best point of every climb; as for a climb at larger radii, nothing falls on the way."""
        state = Hunt(points, Examiner(model, None, points))
        start = self._start(self.threat, points, 0)
        return self._climb(model, state, self.threat, start, self.steps, (0, 0), final=False)

    def body(self, model: Classifier, state: Hunt) -> None:
        """Restart by restart; with targets, one climb for each of them."""
        for restart in range(self.restarts):
            if self.targets:
                self._targeted(model, state, restart)
            else:
                self._run(model, state, restart)
            if not len(state.points):
                return

    def _targeted(self, model: Classifier, state: Hunt, restart: int) -> None:
        """All targets, as many at a time as fit into the rows."""
        capacity = max(self.rows, len(state.points))
        targets = targets_of(model, state.points, self.targets, capacity)
        rank, total = 0, targets.shape[1]
        while rank < total and len(state.points):
            width = min(total - rank, max(1, capacity // len(state.points)))
            self._run(model, pairs(state, targets[:, rank : rank + width], rank), restart)
            rank += width
            (targets,) = cut(state.catch_up(), targets)

    def _run(self, model: Classifier, state: Hunt, restart: int) -> None:
        """A climb at eps; with the large-eps schedule those at larger radii before, each from the last one's best."""
        start = None
        stages = self._stages()
        for stage, (threat, steps) in enumerate(stages):
            if start is None:
                start = self._start(threat, state.points, restart)
            start = threat.project(start, state.points.images)
            last = stage + 1 == len(stages)
            start = self._climb(model, state, threat, start, steps, (restart, stage), final=last)

    def _start(self, threat: ThreatModel, points: Points, restart: int) -> Tensor:
        """The image, or uniform in the ball; in L1 at a fixed radius x + N(0, I) projected onto it: few pixels change.

        A dense L1 start holds every pixel a little changed, and at a fixed radius no step gets rid of all of that.
        """
        images, streams = points.images, points.streams.fold("restart", restart)
        if self.start == "none" and not restart:
            return images
        if threat.norm != "l1" or self.schedule != "flat":
            return threat.random_start(images, streams)
        normal = streams.fold("direction").normal(tuple(images.shape[1:]), images.dtype)
        return threat.project(torch.add(images, normal, alpha=threat.width), images)

    def _stages(self) -> list[tuple[ThreatModel, int]]:
        if self.schedule == "flat":
            return [(self.threat, self.steps)]
        early = [math.ceil(share * self.steps) for _, share in LARGE_EPS[:-1]]
        steps = [*early, self.steps - sum(early)]
        early_ones = [self.threat.widened(factor) for factor, _ in LARGE_EPS[:-1]]
        return list(zip([*early_ones, self.threat], steps, strict=True))

    def _climb(
        self,
        model: Classifier,
        state: Hunt,
        threat: ThreatModel,
        start: Tensor,
        steps: int,
        tick: tuple[int, int],
        *,
        final: bool,
    ) -> Tensor:
        """The best points of a climb from ``start``; points fall only where ``final``, else they may be outside eps."""
        assert self.loss is not None
        value, gradient = input_gradient(self.loss, model, start, state.points, self.draws, *tick, 0)
        climb = Climb.begin(state.points.images, start, value, gradient, threat, resumed=tick[1] > 0)
        checks = windows(steps, threat.norm)
        if final and not _drop(state, climb):
            return climb.best
        for step in range(1, steps + 1):
            climb.advance(threat, first=step == 1)
            if step == steps and final:
                self._finish(model, state, climb, (*tick, step))
                break
            value, gradient = input_gradient(self.loss, model, climb.iterate, state.points, self.draws, *tick, step)
            climb.observe(value, gradient)
            if final and not _drop(state, climb):
                break
            if step in checks:
                climb.check(threat, checks[step], self.rho)
        return climb.best

    def _finish(self, model: Classifier, state: Hunt, climb: Climb, tick: tuple[int, ...]) -> None:
        """The last iterate needs no gradient; a judge of its own then sees the best point of every row."""
        assert self.loss is not None
        value = expected_loss(self.loss, model, climb.iterate, state.points, self.draws, *tick)
        climb.observe(value, climb.gradient)
        if _drop(state, climb) and state.distinct:
            state.drop_fallen(climb.best, ask_all=True)


def _drop(state: Hunt, climb: Climb) -> bool:
    """Drop what has fallen at the iterate; whether anything is left."""
    index = state.drop_fallen(climb.iterate)
    if index is not None:
        climb.take(index)
    return bool(len(state.points))
