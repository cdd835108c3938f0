"""Which wrong classes a targeted attack tries.

Shapes: B examples, K classes; logits (B, K), labels (B,) int64, targets (B, T) int64.
"""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass, replace
from typing import Any, Literal, Self, get_args

import torch
from torch import Tensor

from deconfound.attacks.harness import Hunt
from deconfound.attacks.points import Points
from deconfound.attacks.settings import choice
from deconfound.core.draws import bound
from deconfound.core.guards import attacking
from deconfound.core.protocols import Attack, Classifier, Judge
from deconfound.core.streams import Streams
from deconfound.core.threat import ThreatModel
from deconfound.core.types import Context

# More than any model has classes.
MANY = 2**31


Aim = Literal["random", "most-likely", "least-likely"]


def ranked(logits: Tensor, labels: Tensor, count: int) -> Tensor:
    """The min(count, K - 1) classes other than the label with the largest logits, best first, (B, T).

    >>> ranked(torch.tensor([[5.0, 1.0, 3.0]]), torch.tensor([0]), 9).tolist()
    [[2, 1]]
    """
    count = min(count, logits.shape[1] - 1)
    others = logits.nan_to_num(-torch.inf, neginf=torch.finfo(logits.dtype).min)
    return others.scatter(1, labels[:, None], -torch.inf).argsort(dim=1, descending=True, stable=True)[:, :count]


def targets_of(model: Classifier, points: Points, count: int, capacity: int) -> Tensor:
    """``context["target"]`` (B, 1) where it is given, else the classes that rank highest on the clean images.

    ``capacity`` images are forwarded at a time.
    """
    given = points.context.get("target")
    if given is not None:
        return given[:, None]
    with torch.no_grad():
        parts = torch.arange(len(points), device=points.images.device).split(capacity)
        logits = [bound(model, points.streams[part].fold("rank"))(points.images[part]).float() for part in parts]
    return ranked(torch.cat(logits), points.labels, count)


def pairs(state: Hunt, targets: Tensor, rank: int) -> Hunt:
    """A branch with a row for every pair of a point and one of its targets (B, T), targets outermost.

    Each row knows its ``context["target"]`` and draws from streams of the target's rank, counted from ``rank``.
    """
    count = targets.shape[1]
    branch = state.branch(torch.arange(len(state.points), device=targets.device).repeat(count))
    streams = Streams.joined([state.points.streams.fold("target", rank + t) for t in range(count)])
    context = {**branch.points.context, "target": targets.T.flatten()}
    branch.points = replace(branch.points, streams=streams, context=context)
    return branch


@dataclass(frozen=True)
class Aimed:
    """An attack towards one wrong class of each image, chosen on the clean image.

    An image still counts as broken wherever the prediction is wrong, whichever class it is.

    Args:
        attack: climbs a loss that reads ``context["target"]``.
        aim: ``most-likely`` or ``least-likely`` wrong class by the surrogate's clean logits, or a ``random`` one.
        name: in records; by default the attack's with the aim.

    Raises:
        InputError: another aim.
    """

    attack: Attack
    _: KW_ONLY
    aim: Aim = "most-likely"
    name: str = ""

    def __post_init__(self) -> None:
        choice("aim", self.aim, get_args(Aim))
        if not self.name:
            object.__setattr__(self, "name", f"{self.attack.name}-{self.aim}")

    @property
    def threat(self) -> ThreatModel:
        """Of the attack."""
        return self.attack.threat

    def at(self, threat: ThreatModel) -> Self:
        """The same attack in another threat model."""
        return replace(self, attack=self.attack.at(threat))

    def settings(self) -> dict[str, Any]:
        """The attack's, and the aim."""
        return {**self.attack.settings(), "aim": self.aim}

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
        """Adversarial images where they were found, else the clean ones, (B, C, H, W); arguments as of the attack."""
        points = Points.of(images, labels, streams, context)
        if not len(points) or self.threat.eps == 0:
            return images.clone()
        with attacking("eval", images.device, model):
            targets = targets_of(model, points, MANY, max(1, len(points)))
        if self.aim == "random":
            place = points.streams.fold("aim").uniform((1,), torch.float64).mul(targets.shape[1]).long()
        else:
            place = torch.full_like(targets[:, :1], 0 if self.aim == "most-likely" else targets.shape[1] - 1)
        aimed = {**points.context, "target": targets.gather(1, place).squeeze(1)}
        return self.attack(model, images, labels, points.streams, aimed, judge=judge)
