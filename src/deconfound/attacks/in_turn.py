"""Several attacks as one: each works on what the earlier ones left.

Shapes: B examples; images (B, C, H, W), labels (B,) int64.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor

from deconfound.attacks.contest import Contest
from deconfound.attacks.judging import as_judge
from deconfound.core.protocols import Attack, Classifier, Judge, RandomJudge
from deconfound.core.streams import Streams
from deconfound.core.threat import ThreatModel
from deconfound.core.types import Context
from deconfound.errors import require


@dataclass(frozen=True)
class InTurn:
    """The members one after the other, as one column of a table.

    Args:
        members: attacks in one threat model.
        name: in records.

    Raises:
        InputError: no members, members of different threat models, or two of one name.
    """

    members: tuple[Attack, ...]
    name: str

    def __post_init__(self) -> None:
        require(len(self.members) > 0, "members", self.members, "at least one attack")
        same = all(member.threat == self.members[0].threat for member in self.members)
        require(same, "members", [str(member.threat) for member in self.members], "attacks in one threat model")
        names = [member.name for member in self.members]
        require(len(set(names)) == len(names), "members", names, "different names, which key their random numbers")

    @property
    def threat(self) -> ThreatModel:
        """Of all members."""
        return self.members[0].threat

    def at(self, threat: ThreatModel) -> Self:
        """The same members in another threat model."""
        return replace(self, members=tuple(member.at(threat) for member in self.members))

    def settings(self) -> dict[str, Any]:
        """The settings of every member by its name."""
        norm, eps, box = self.threat.norm, self.threat.eps, list(self.threat.box)
        own = {member.name: member.settings() for member in self.members}
        return {"kind": "in turn", "norm": norm, "eps": eps, "box": box, "members": own}

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
        """What the first member to succeed found, else the clean image, (B, C, H, W); arguments as of the members.

        Before a random judge that of any member which most draws misjudge.
        """
        streams = Streams(0, range(len(images))).to(images.device) if streams is None else streams
        asked = as_judge(model if judge is None else judge)
        if isinstance(asked, RandomJudge):
            return self._best(asked, model, images, labels, streams, context)
        found = images.clone()
        for member in self.members:
            left = (found == images).flatten(1).all(dim=1).nonzero().squeeze(1)
            if not len(left):
                break
            own = {name: value[left] for name, value in (context or {}).items()}
            part = streams[left].fold(member.name)
            found[left] = member(model, images[left], labels[left], part, own, judge=judge)
        return found

    def _best(
        self,
        judge: RandomJudge,
        model: Classifier,
        images: Tensor,
        labels: Tensor,
        streams: Streams,
        context: Context | None,
    ) -> Tensor:
        contest, left = Contest(judge, images, streams), torch.arange(len(images), device=images.device)
        for member in self.members:
            if not len(left):
                break
            own = {name: value[left] for name, value in (context or {}).items()}
            part = streams[left].fold(member.name)
            found = member(model, images[left], labels[left], part, own, judge=judge)
            sure = contest.enter_asked(found, labels[left], left)
            left = left[torch.ones_like(left, dtype=torch.bool).index_fill(0, sure, False)]
        return contest.winners(labels)
