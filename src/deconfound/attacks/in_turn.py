"""Several attacks as one: each works on what the earlier ones left.

Shapes: B examples; images (B, C, H, W), labels (B,) int64.
"""

from __future__ import annotations

from collections.abc import Callable
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

        def attacked(member: Attack, left: Tensor) -> Tensor:
            own = {name: value[left] for name, value in (context or {}).items()}
            return member(model, images[left], labels[left], streams[left].fold(member.name), own, judge=judge)

        asked = as_judge(model if judge is None else judge)
        if isinstance(asked, RandomJudge):
            return self._best(Contest(asked, images, streams), labels, attacked)
        found = images.clone()
        for member in self.members:
            left = (found == images).flatten(1).all(dim=1).nonzero().squeeze(1)
            if not len(left):
                break
            found[left] = attacked(member, left)
        return found

    def _best(self, contest: Contest, labels: Tensor, attacked: Callable[[Attack, Tensor], Tensor]) -> Tensor:
        """What wins among all members' images; surely fallen examples are left alone by later members."""
        left = torch.arange(len(labels), device=labels.device)
        for member in self.members:
            if not len(left):
                break
            sure = contest.enter_asked(attacked(member, left), labels[left], left)
            left = left[torch.ones_like(left, dtype=torch.bool).index_fill(0, sure, False)]
        return contest.winners(labels)
