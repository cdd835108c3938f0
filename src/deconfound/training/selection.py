"""Which epoch's weights are kept, when to stop early, and when one-step training has collapsed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from deconfound.training.settings import SelectionSettings

# A collapse is unmistakable: the inner attack is almost always survived while a stronger one almost always wins.
COLLAPSE = 0.5


PlayerStates = dict[str, dict[str, Tensor]]
"""The state of each player by its name."""


def copied(states: Mapping[str, Mapping[str, Tensor]]) -> PlayerStates:
    """Copies that training does not move."""
    return {name: {key: tensor.detach().clone() for key, tensor in state.items()} for name, state in states.items()}


@dataclass
class Best:
    """The best epoch so far by the validation score, with the state of every player; the earlier one wins a tie."""

    epoch: int = -1
    score: float = -1.0
    state: PlayerStates | None = None

    def offer(self, epoch: int, score: float, state: Mapping[str, Mapping[str, Tensor]]) -> bool:
        """Keep a copy of every player's state if the score is better than any before; says whether it was."""
        if score <= self.score:
            return False
        self.epoch, self.score = epoch, score
        self.state = copied(state)
        return True

    def exhausted(self, settings: SelectionSettings, epoch: int) -> bool:
        """Whether ``patience`` epochs have passed without a better score."""
        return settings.patience is not None and self.epoch >= 0 and epoch - self.epoch >= settings.patience


def overfitting_warning(history: Sequence[Mapping[str, float]]) -> str | None:
    """Catastrophic overfitting (Wong et al. 2020): accuracy under the training attack rises, under PGD it collapses.

    Looks at the last epoch: PGD accuracy on validation below half of its best so far, while accuracy on the training
    attack's images is at or above what it was at that best epoch.

    >>> rows = [{"epoch": 0, "accuracy": 0.6, "validation_robust": 0.4},
    ...         {"epoch": 1, "accuracy": 0.9, "validation_robust": 0.0}]
    >>> overfitting_warning(rows)
    'catastrophic overfitting in epoch 2: PGD accuracy fell from 40.0 % to 0.0 % while accuracy on the training attack rose from 60.0 % to 90.0 %'
    """  # noqa: E501
    judged = [row for row in history if "validation_robust" in row and "accuracy" in row]
    if len(judged) < 2:
        return None
    last, best = judged[-1], max(judged[:-1], key=lambda row: row["validation_robust"])
    collapsed = last["validation_robust"] < COLLAPSE * best["validation_robust"]
    if not collapsed or last["accuracy"] < best["accuracy"]:
        return None
    return (
        f"catastrophic overfitting in epoch {int(last['epoch']) + 1}: PGD accuracy fell from "
        f"{best['validation_robust']:.1%} to {last['validation_robust']:.1%} while accuracy on the training attack "
        f"rose from {best['accuracy']:.1%} to {last['accuracy']:.1%}".replace("%", " %")
    )
