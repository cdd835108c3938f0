"""Weight averaging (EMA, SWA) on top of torch's ``AveragedModel``, buffers included."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from deconfound.core.types import Progress
from deconfound.training.settings import AveragingSettings

Averaged = tuple[Tensor, ...] | list[Tensor]

NEVER = "averaging has not begun: no epoch ended after averaging.start, so the weights kept are no average"
"""What the record of a run says whose average is of nothing."""


def decay_at(decay: float, taken: int) -> float:
    """d_t = min(d, (1 + t) / (10 + t)), t the steps in the average so far.

    A constant d of 0.999 holds 0.999^t of the first step's weights, after a hundred steps nine tenths of them; this
    one forgets them as 1 / t^9 at first.

    Source: TensorFlow's ``tf.train.ExponentialMovingAverage`` with ``num_updates``.

    >>> [round(decay_at(0.999, t), 3) for t in (1, 10, 100, 10000)]
    [0.182, 0.55, 0.918, 0.999]
    """
    return min(decay, (1 + taken) / (10 + taken))


class WeightAverage:
    """An average of a model's weights and buffers over training.

    EMA after each step: w_avg <- d_t w_avg + (1 - d_t) w, d_t as in ``decay_at``. SWA: the plain mean over epoch ends
    after ``start``. The mean of BatchNorm statistics is not what the mean network needs: before it is looked at, the
    loop estimates them anew, see ``training.statistics``.
    """

    def __init__(self, settings: AveragingSettings, model: nn.Module) -> None:
        self.settings = settings
        function = self._ema if settings.name == "ema" else None
        self._average = AveragedModel(model, multi_avg_fn=function, use_buffers=True)

    @property
    def model(self) -> nn.Module:
        """The averaged network."""
        return self._average.module

    def after_step(self, model: nn.Module) -> None:
        """Called after each optimiser step of the model."""
        if self.settings.name == "ema":
            self._average.update_parameters(model)

    def after_epoch(self, model: nn.Module, progress: Progress) -> None:
        """Called after each epoch."""
        if self.settings.name == "swa" and (progress.epoch + 1) / progress.epochs > self.settings.start:
            self._average.update_parameters(model)

    def _ema(self, average: Averaged, current: Averaged, taken: Tensor | int) -> None:
        update: Callable[..., None] = get_ema_multi_avg_fn(decay_at(self.settings.decay, int(taken)))
        update(average, current, taken)

    def ready(self) -> bool:
        """Whether anything has been averaged yet."""
        return int(self._average.n_averaged) > 0

    def state_dict(self) -> dict[str, object]:
        """Weights, buffers and the count."""
        return self._average.state_dict()

    def load_state_dict(self, state: dict[str, object]) -> None:
        """Continue an average."""
        self._average.load_state_dict(state)
