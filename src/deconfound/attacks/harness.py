"""What every attack owes its caller, whatever it does in between.

Shapes: B examples; images (B, C, H, W), labels (B,) int64.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from deconfound.attacks.judging import Examiner
from deconfound.attacks.points import Points
from deconfound.core.guards import Mode, attacking
from deconfound.core.protocols import Classifier, Judge
from deconfound.core.threat import ThreatModel

Keep = Literal["first_adversarial", "last"]
Maximiser = Callable[[Classifier, Points], Tensor]


class Hunt:
    """The points that still stand, and the adversarial images of those that fell."""

    def __init__(self, points: Points, examiner: Examiner) -> None:
        self.points = points
        self.images = points.images.clone()
        self._examiner = examiner

    def drop_fallen(self, candidates: Tensor, ask_all: bool = False) -> Tensor | None:
        """Keeps what has fallen at ``candidates`` and goes on with the rest.

        Returns:
            Positions of the points that stand, for cutting the attack's own tensors; None where nothing fell.
        """
        fallen = self._examiner.fallen(candidates, self.points, ask_all)
        if not len(fallen):
            return None
        self.images[self.points.place[fallen]] = candidates.detach()[fallen]
        standing = torch.ones(len(candidates), dtype=torch.bool, device=candidates.device)
        standing[fallen] = False
        index = standing.nonzero().squeeze(1)
        self.points = self.points.take(index)
        return index


Hunter = Callable[[Classifier, Hunt], None]


def maximise(body: Maximiser, threat: ThreatModel, mode: Mode, model: Classifier, points: Points) -> Tensor:
    """Run ``body`` on all points to its last step (``keep="last"``); nothing is judged."""
    if threat.eps == 0 or not len(points):
        return points.images.clone()
    with attacking(mode, points.images.device, model):
        return body(model, points).detach()


def hunt(
    body: Hunter,
    threat: ThreatModel,
    mode: Mode,
    model: Classifier,
    points: Points,
    judge: Judge | Classifier | None,
    begins_clean: bool = False,
) -> Tensor:
    """Run ``body`` on the points that the judge gets right (``keep="first_adversarial"``).

    Args:
        body: attacks ``hunt.points`` and reports every iterate to ``hunt.drop_fallen``.
        threat: its radius 0 leaves every image as it is.
        mode: of the surrogate while it is attacked.
        model: the surrogate.
        points: the examples.
        judge: None for the surrogate itself.
        begins_clean: the first iterate of ``body`` is the clean image, which then is not forwarded beforehand.

    Returns:
        An adversarial image where one was found, else the clean one, (B, C, H, W).
    """
    if threat.eps == 0 or not len(points):
        return points.images.clone()
    examiner = Examiner(model, judge)
    with attacking(mode, points.images.device, model), examiner.listening() as surrogate:
        state = Hunt(points, examiner)
        if examiner.distinct or not begins_clean:
            state.drop_fallen(points.images, ask_all=True)
        if len(state.points):
            body(surrogate, state)
        return state.images
