"""The whole state of a run as plain tensors, numbers and strings, so that it opens with ``weights_only=True``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from deconfound.training.averaging import WeightAverage
from deconfound.training.selection import Best


class Meter:
    """Sums over an epoch, kept on the device so that no step waits for a number."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.counts: dict[str, int] = {}

    def add(self, values: Mapping[str, Tensor], images: int) -> None:
        """Add batch means, weighted by the number of images."""
        for name, value in values.items():
            weighted = value.detach().double() * images
            self.sums[name] = self.sums[name] + weighted if name in self.sums else weighted
            self.counts[name] = self.counts.get(name, 0) + images

    def means(self) -> dict[str, float]:
        """The means so far."""
        return {name: float(total) / self.counts[name] for name, total in self.sums.items()}

    def to_dict(self) -> dict[str, Any]:
        """Sums and counts."""
        return {"sums": dict(self.sums), "counts": dict(self.counts)}

    @classmethod
    def of(cls, state: Mapping[str, Any]) -> Meter:
        """Continue from ``to_dict``."""
        meter = cls()
        meter.sums, meter.counts = dict(state["sums"]), dict(state["counts"])
        return meter


@dataclass
class RunState:
    """What changes during training, and its way into and out of a checkpoint.

    Random numbers need no state of their own: every draw is keyed by seed, epoch, step and example.
    """

    players: Mapping[str, nn.Module]
    optimizers: Mapping[str, torch.optim.Optimizer]
    average: WeightAverage | None = None
    epoch: int = 0
    step: int = 0
    best: Best = field(default_factory=Best)
    meter: Meter = field(default_factory=Meter)
    history: list[dict[str, float]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    seconds: float = 0.0
    images: int = 0
    resumed: int = 0
    finished: bool = False

    def kept_model(self) -> nn.Module:
        """The network that is validated and kept: the average where there is one, else the model."""
        return self.average.model if self.average is not None and self.average.ready() else self.players["model"]

    def kept(self) -> dict[str, dict[str, Tensor]]:
        """The states to keep at this moment: that of ``kept_model``, and of the other players as they are."""
        states = {name: player.state_dict() for name, player in self.players.items()}
        return states | {"model": self.kept_model().state_dict()}

    def to_dict(self) -> dict[str, Any]:
        """Everything needed to continue bit for bit."""
        return {
            "players": {name: dict(player.state_dict()) for name, player in self.players.items()},
            "optimizers": {name: optimizer.state_dict() for name, optimizer in self.optimizers.items()},
            "average": dict(self.average.state_dict()) if self.average else None,
            "best": {"epoch": self.best.epoch, "score": self.best.score, "state": self.best.state},
            "meter": self.meter.to_dict(),
            "history": [dict(row) for row in self.history],
            "warnings": list(self.warnings),
            **{name: getattr(self, name) for name in _NUMBERS},
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from ``to_dict``."""
        for name, player in self.players.items():
            player.load_state_dict(state["players"][name])
        for name, optimizer in self.optimizers.items():
            optimizer.load_state_dict(state["optimizers"][name])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        self.best = Best(**state["best"])
        self.meter = Meter.of(state["meter"])
        self.history = [dict(row) for row in state["history"]]
        self.warnings = list(state["warnings"])
        for name in _NUMBERS:
            setattr(self, name, state[name])
        self.resumed += 1


_NUMBERS = ("epoch", "step", "seconds", "images", "resumed", "finished")
