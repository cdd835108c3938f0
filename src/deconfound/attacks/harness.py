"""What every attack owes its caller, whatever it does in between.

Shapes: B examples; images (B, C, H, W), labels (B,) int64.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from deconfound.attacks.judging import Examiner, errs
from deconfound.attacks.points import Points, first_of_each
from deconfound.core.guards import Mode, attacking
from deconfound.core.protocols import Classifier, Judge
from deconfound.core.streams import Streams
from deconfound.core.threat import TOLERANCE, ThreatModel
from deconfound.core.types import Context
from deconfound.errors import require

Keep = Literal["first_adversarial", "last"]
# Calls between two looks on an accelerator: some 1 % of the work is done on points that have fallen already.
CPU_PATIENCE, ACCELERATOR_PATIENCE = 1, 8
Maximiser = Callable[[Classifier, Points], Tensor]


class Hunt:
    """The points that still stand, and the adversarial images of those that fell.

    ``points`` may hold several rows of one example (one for each target, say): once a row falls, all rows of that
    example go.
    """

    def __init__(self, points: Points, examiner: Examiner) -> None:
        self.points = points
        self.images = points.images.clone()
        self._gone = torch.zeros(len(points), dtype=torch.bool, device=points.images.device)
        self._examiner = examiner
        self._patience = CPU_PATIENCE if points.images.device.type == "cpu" else ACCELERATOR_PATIENCE
        self._branches: list[Hunt] = []
        self._wait()

    def _wait(self) -> None:
        """Nothing is noted; as soon as something is, it has a place for every row."""
        self._noted: tuple[Tensor, Tensor] | None = None
        self._calls = 0

    @property
    def distinct(self) -> bool:
        """Whether the judge is another than the surrogate."""
        return self._examiner.distinct

    def branch(self, rows: Tensor) -> Hunt:
        """A hunt of some rows, int64 positions in ``points``, repeated or not; what falls there falls here.

        Call ``catch_up`` on this one afterwards.
        """
        other = copy.copy(self)
        other.points, other._branches = self.points.take(rows), []
        other._wait()
        self._branches.append(other)
        return other

    def catch_up(self) -> Tensor | None:
        """Drops what a branch has broken; returns as ``drop_fallen``."""
        for branch in self._branches:
            branch.settle()
        self._branches = []
        lost = self._gone[self.points.place]
        if not bool(lost.any()):
            return None
        index = (~lost).nonzero().squeeze(1)
        self.points = self.points.take(index)
        return index

    def drop_fallen(self, candidates: Tensor, ask_all: bool = False) -> Tensor | None:
        """Keeps what has fallen at ``candidates`` and goes on with the rest.

        On an accelerator the host does not wait for every answer: the first candidate at which a row falls is noted
        there, and every few calls the noted ones are judged and dropped together.

        Args:
            candidates: one image for each row of ``points``. The logits of the surrogate's last call are used where
                it was called on this very tensor.
            ask_all: the judge sees all of them, not only those that the surrogate says have fallen.

        Returns:
            Positions of the rows that stand, for cutting the attack's own tensors; None where nothing is dropped.
        """
        if self._patience == 1 or self._examiner.random:
            return self.drop(candidates, self._examiner.fallen(candidates, self.points, ask_all))
        if not ask_all:
            self._note(candidates)
            self._calls += 1
            return self.settle() if self._calls >= self._patience else None
        index = self.settle()
        (left,) = cut(index, candidates)
        more = self.drop(left, self._examiner.fallen(left, self.points, ask_all=True))
        return more if index is None else index if more is None else index[more]

    def _note(self, candidates: Tensor) -> None:
        fallen = errs(self.heard(candidates), self.points.labels)
        if self._noted is None:
            self._noted = fallen, candidates.detach().clone()
            return
        before, images = self._noted
        fresh = (fallen & ~before).view(-1, *[1] * (candidates.ndim - 1))
        self._noted = before | fallen, torch.where(fresh, candidates.detach(), images)

    def settle(self) -> Tensor | None:
        """Judges and drops what is noted; returns as ``drop_fallen``."""
        if self._noted is None:
            return None
        suspects, images = self._noted
        self._wait()
        return self.drop(images, self._examiner.confirmed(images, self.points, suspects))

    def found(self) -> tuple[Tensor, Tensor]:
        """The images of all examples, clean where nothing was found, and which have fallen or moved, (B,) bool."""
        return self.images, self._gone

    def heard(self, candidates: Tensor) -> Tensor:
        """The surrogate's logits (B, K), without a forward where it was called last on this very tensor."""
        return self._examiner.heard(candidates, self.points)

    def confirmed(self, candidates: Tensor, suspects: Tensor) -> Tensor:
        """Positions of the suspects (B,) bool, rows where the surrogate errs, on which the judge agrees."""
        return self._examiner.confirmed(candidates, self.points, suspects)

    def drop(self, candidates: Tensor, fallen: Tensor) -> Tensor | None:
        """Keeps the candidates at positions ``fallen``, all ``confirmed``; returns as ``drop_fallen``.

        For attacks whose iterates leave the threat model, which therefore say themselves which ones count.
        """
        if not len(fallen):
            return None
        fallen = fallen[first_of_each(self.points.place[fallen])]
        self.images[self.points.place[fallen]] = candidates.detach()[fallen]
        self._gone[self.points.place[fallen]] = True
        return self.catch_up()


def cut(index: Tensor | None, *tensors: Tensor) -> tuple[Tensor, ...]:
    """The rows at ``index`` of an attack's own tensors; the tensors as they are where index is None."""
    return tensors if index is None else tuple(tensor[index] for tensor in tensors)


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

    Raises:
        InputError: images outside the threat model's box, such as levels from 0 to 255.
    """
    if threat.eps == 0 or not len(points):
        return points.images.clone()
    _check_inside(points.images, threat)
    examiner = Examiner(model, judge, points)
    with attacking(mode, points.images.device, model), examiner.listening() as surrogate:
        state = Hunt(points, examiner)
        if not examiner.random and (examiner.distinct or not begins_clean):
            state.drop_fallen(points.images, ask_all=True)
        if len(state.points):
            body(surrogate, state)
        state.catch_up()
        state.settle()
        return examiner.settled(*state.found())


def _check_inside(images: Tensor, threat: ThreatModel) -> None:
    """Only where examples are hunted: that waits for the device anyway, and training, which does not, is left alone."""
    low, high = (float(end) for end in torch.aminmax(images.detach()))
    inside = threat.box[0] - TOLERANCE <= low and high <= threat.box[1] + TOLERANCE
    box = f"[{threat.box[0]:g}, {threat.box[1]:g}]"
    rule = f"pixels in {box}; divide levels by 255, and leave normalisation to the model"
    require(inside, "images", f"values from {low:.4g} to {high:.4g}", rule)


def assault(
    body: Hunter,
    threat: ThreatModel,
    model: Classifier,
    images: Tensor,
    labels: Tensor,
    streams: Streams | None = None,
    context: Context | None = None,
    judge: Judge | Classifier | None = None,
    *,
    begins_clean: bool = False,
) -> Tensor:
    """``hunt`` from the arguments of an attack's call, with the network in eval mode.

    Raises:
        InputError: shapes or types that do not fit each other.
    """
    with torch.inference_mode(False):
        points = Points.of(images, labels, streams, context)
        return hunt(body, threat, "eval", model, points, judge, begins_clean)
