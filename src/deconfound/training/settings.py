"""Validated settings of the training loop. All are frozen; unknown keys are refused."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Share = Annotated[float, Field(ge=0, le=1)]
Precision = Literal["32-true", "bf16-mixed", "64-true"]


class Settings(BaseModel):
    """Base of all settings: immutable, strict about unknown keys and non-finite numbers."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class OptimizerSettings(Settings):
    """SGD (momentum, Nesterov) or AdamW; decoupled from the learning rate, which the recipe and schedule give."""

    name: Literal["sgd", "adamw"] = "sgd"
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    nesterov: bool = False
    weight_decay: Annotated[float, Field(ge=0)] = 5e-4
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (0.9, 0.999)
    amsgrad: bool = False

    @model_validator(mode="after")
    def _nesterov_needs_momentum(self) -> OptimizerSettings:
        if self.nesterov and self.momentum == 0:
            raise ValueError("a momentum above 0 with nesterov")
        return self


class ScheduleSettings(Settings):
    """Learning rate over training, as a multiple of ``lr``. All positions are shares of the whole training.

    ``piecewise`` multiplies by ``factor`` at each milestone; ``cosine`` falls to 0; ``triangular`` rises linearly from
    0 to 1 at ``peak`` and falls back to 0 (one cycle); ``constant`` stays at 1.
    """

    name: Literal["constant", "piecewise", "cosine", "triangular"] = "piecewise"
    milestones: tuple[Share, ...] = (0.5, 0.75)
    factor: Annotated[float, Field(gt=0, le=1)] = 0.1
    peak: Annotated[float, Field(gt=0, lt=1)] = 0.4

    @model_validator(mode="after")
    def _milestones_ascend(self) -> ScheduleSettings:
        if list(self.milestones) != sorted(self.milestones):
            raise ValueError("milestones in ascending order")
        return self


class AveragingSettings(Settings):
    """Averages of the model's weights: exponential per step (``ema``), or over epoch ends after ``start`` (``swa``).

    ``decay`` is that of late steps: t steps in, it is at most (1 + t) / (10 + t). ``start`` is a share of training.
    BatchNorm statistics of the average are estimated at each epoch's end on training images as the objective sees them,
    2048 or an epoch. The model has to be the one player that is trained.
    """

    name: Literal["none", "ema", "swa"] = "none"
    decay: Annotated[float, Field(gt=0, lt=1)] = 0.999
    start: Annotated[float, Field(ge=0, lt=1)] = 0.75


class SelectionSettings(Settings):
    """Which weights are kept: those of the best validation score (``best``) or of the last epoch (``last``).

    ``size`` images are carved from train (never more than a tenth of it); the score is their accuracy under a PGD of
    ``steps`` steps, or the clean accuracy for objectives without adversarial examples. ``patience`` epochs without a
    better score end training early; None never does. ``last`` is for training without adversarial examples and for
    stochastic networks, whose PGD accuracy would select for masking.
    """

    keep: Literal["best", "last"] = "best"
    size: Annotated[int, Field(ge=0)] = 1000
    steps: Annotated[int, Field(ge=1)] = 10
    every: Annotated[int, Field(ge=1)] = 1
    patience: Annotated[int, Field(ge=1)] | None = None

    @model_validator(mode="after")
    def _best_needs_images(self) -> SelectionSettings:
        if self.size == 0 and (self.keep == "best" or self.patience is not None):
            raise ValueError("validation images; for size 0 set selection.keep=last and no patience")
        return self


class LoopSettings(Settings):
    """Everything the loop needs besides objective and data.

    ``batch_size`` is global: it is split evenly over processes. ``players`` overrides the optimiser of single players.
    ``compile`` compiles the players, whether they are called or asked for ``features`` and ``head``; a network that
    AMR-GMM cuts at an inner layer runs as it is. ``keep_every`` keeps the weights of every so many epochs, and of the
    last; it changes nothing else.
    """

    epochs: Annotated[int, Field(ge=1)]
    batch_size: Annotated[int, Field(ge=1)]
    lr: Annotated[float, Field(gt=0)]
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    precision: Precision = "32-true"
    optimizer: OptimizerSettings = OptimizerSettings()
    players: dict[str, OptimizerSettings] = {}
    schedule: ScheduleSettings = ScheduleSettings()
    averaging: AveragingSettings = AveragingSettings()
    selection: SelectionSettings = SelectionSettings()
    clip_norm: Annotated[float, Field(gt=0)] | None = None
    channels_last: bool = False
    compile: bool = False
    keep_every: Annotated[int, Field(ge=1)] | None = None
