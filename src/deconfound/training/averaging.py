"""Weight averaging (EMA, SWA) on top of torch's ``AveragedModel``, buffers included."""

from __future__ import annotations

from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from deconfound.core.types import Progress
from deconfound.training.settings import AveragingSettings


class WeightAverage:
    """An average of a model's weights and buffers over training.

    EMA after each step: w_avg <- d w_avg + (1 - d) w. SWA at each epoch end after ``start``: the plain mean.
    BatchNorm statistics are averaged with the weights, so no extra pass over the data is needed.
    """

    def __init__(self, settings: AveragingSettings, model: nn.Module) -> None:
        self.settings = settings
        function = get_ema_multi_avg_fn(settings.decay) if settings.name == "ema" else None
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

    def ready(self) -> bool:
        """Whether anything has been averaged yet."""
        return int(self._average.n_averaged) > 0

    def state_dict(self) -> dict[str, object]:
        """Weights, buffers and the count."""
        return self._average.state_dict()

    def load_state_dict(self, state: dict[str, object]) -> None:
        """Continue an average."""
        self._average.load_state_dict(state)
