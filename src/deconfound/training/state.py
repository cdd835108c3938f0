"""The whole state of a run as plain tensors, numbers and strings, so that it opens with ``weights_only=True``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from deconfound.core.estimators import gathered
from deconfound.training.averaging import WeightAverage
from deconfound.training.selection import Best


class Meter:
    """Sums over an epoch, kept on the device so that no step waits for a number; each process has its own."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.counts: dict[str, float] = {}

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

    def of_all(self, device: torch.device) -> list[Meter]:
        """The meters of all processes, by rank; every process must ask, each with the device that it computes on."""
        if not self.sums:
            return [self]
        sums = torch.stack([total.to(device) for total in self.sums.values()])
        meters = []
        for row in gathered(torch.stack([sums, sums.new_tensor(list(self.counts.values()))])[None]):
            meter = Meter()
            meter.sums = dict(zip(self.sums, row[0], strict=True))
            meter.counts = dict(zip(self.counts, row[1].tolist(), strict=True))
            meters.append(meter)
        return meters

    @classmethod
    def of(cls, states: Sequence[Mapping[str, Any]], rank: int = 0, world: int = 1) -> Meter:
        """Continue from the ``to_dict`` of all processes: a process from its own.

        Of another number of processes each takes an equal share of all sums and counts, so that the means over them
        are those of all images.

        >>> states = [{"sums": {"loss": 1.0}, "counts": {"loss": 4}}, {"sums": {"loss": 2.0}, "counts": {"loss": 4}}]
        >>> Meter.of(states, 1, 2).means(), Meter.of(states).means(), Meter.of(states, 1, 4).counts
        ({'loss': 0.5}, {'loss': 0.375}, {'loss': 2.0})
        """
        meter = cls()
        if len(states) == world:
            meter.sums, meter.counts = dict(states[rank]["sums"]), dict(states[rank]["counts"])
            return meter
        for state in states:
            for name, total in state["sums"].items():
                meter.sums[name] = meter.sums.get(name, 0) + total / world
                meter.counts[name] = meter.counts.get(name, 0) + state["counts"][name] / world
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

    def to_dict(self, meters: Sequence[Meter]) -> dict[str, Any]:
        """Everything needed to continue bit for bit, with the meters of all processes."""
        return {
            "players": {name: dict(player.state_dict()) for name, player in self.players.items()},
            "optimizers": {name: optimizer.state_dict() for name, optimizer in self.optimizers.items()},
            "average": dict(self.average.state_dict()) if self.average else None,
            "best": {"epoch": self.best.epoch, "score": self.best.score, "state": self.best.state},
            "meters": [meter.to_dict() for meter in meters],
            "history": [dict(row) for row in self.history],
            "warnings": list(self.warnings),
            **{name: getattr(self, name) for name in _NUMBERS},
        }

    def restore(self, state: Mapping[str, Any], rank: int = 0, world: int = 1) -> None:
        """Continue from ``to_dict`` as one of ``world`` processes."""
        for name, player in self.players.items():
            player.load_state_dict(state["players"][name])
        for name, optimizer in self.optimizers.items():
            optimizer.load_state_dict(state["optimizers"][name])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        self.best = Best(**state["best"])
        meters = state["meters"] if "meters" in state else [state["meter"]]  # older ones have that of one process
        self.meter = Meter.of(meters, rank, world)
        self.history = [dict(row) for row in state["history"]]
        self.warnings = list(state["warnings"])
        for name in _NUMBERS:
            setattr(self, name, state[name])
        self.resumed += 1


_NUMBERS = ("epoch", "step", "seconds", "images", "resumed", "finished")
