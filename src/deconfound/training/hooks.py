"""What the training loop talks to, and what it returns."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from deconfound.core.protocols import Augmentation, Checkpointer, Journal, Monitor

Validate = Callable[[nn.Module], Mapping[str, float]]
Keep = Callable[[int, Mapping[str, Mapping[str, Tensor]]], None]


@dataclass(frozen=True, kw_only=True)
class Hooks:
    """What the loop talks to, all optional.

    Attributes:
        augmentation: applied to each batch on its device.
        checkpointer: keeps the state; ``checkpoint_seconds`` apart (0: after every step; of several processes after
            every eighth, on which they agree), and at the end.
        journal: one entry per epoch.
        monitor: shows progress.
        keep: (epochs done, the states to keep of each player) -> None, after every ``keep_every`` epochs and the last.
        validate: figures of the kept network after an epoch; ``validation_robust``, else ``validation_clean``, selects.
        should_stop: asked after each step; True saves the state and returns with ``stopped``.
    """

    augmentation: Augmentation | None = None
    checkpointer: Checkpointer | None = None
    checkpoint_seconds: float = 30.0
    journal: Journal | None = None
    monitor: Monitor | None = None
    keep: Keep | None = None
    validate: Validate | None = None
    should_stop: Callable[[], bool] = lambda: False


@dataclass(frozen=True, kw_only=True)
class FitResult:
    """How training went.

    ``players`` holds the state to keep of each player, all of the same epoch; ``stopped`` says that it ended early on
    request.
    """

    players: dict[str, dict[str, Tensor]]
    history: tuple[dict[str, float], ...]
    warnings: tuple[str, ...]
    selected_epoch: int | None
    epochs_run: int
    seconds: float
    images_per_second: float
    resumed: int
    stopped: bool

    @property
    def model(self) -> dict[str, Tensor]:
        """The weights of the classifier to keep."""
        return self.players["model"]
