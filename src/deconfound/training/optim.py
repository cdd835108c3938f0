"""Optimisers and learning-rate schedules."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import nn

from deconfound.core.types import Progress
from deconfound.training.settings import OptimizerSettings, ScheduleSettings


def build_optimizer(
    settings: OptimizerSettings, parameters: Iterable[nn.Parameter], lr: float
) -> torch.optim.Optimizer:
    """The optimiser of one player."""
    if settings.name == "sgd":
        return torch.optim.SGD(
            parameters,
            lr=lr,
            momentum=settings.momentum,
            nesterov=settings.nesterov,
            weight_decay=settings.weight_decay,
        )
    return torch.optim.AdamW(
        parameters, lr=lr, betas=settings.betas, weight_decay=settings.weight_decay, amsgrad=settings.amsgrad
    )


def multiplier(settings: ScheduleSettings, progress: Progress) -> float:
    """The learning rate at a point of training, as a multiple of its base.

    ``piecewise`` changes at the first epoch that begins at or after a milestone; the others change at every step.
    ``triangular`` is read in the middle of the step, so that neither end of the cycle wastes a step at 0.

    >>> multiplier(ScheduleSettings(name="triangular", peak=0.5), Progress(epoch=0, epochs=4))
    0.25
    """
    share = progress.fraction
    if settings.name == "piecewise":
        epoch_start = progress.epoch / progress.epochs
        passed = sum(epoch_start >= milestone - 1e-9 for milestone in settings.milestones)
        return settings.factor**passed
    if settings.name == "cosine":
        return 0.5 * (1 + math.cos(math.pi * share))
    if settings.name == "triangular":
        middle = share + 0.5 / (progress.steps * progress.epochs)
        return middle / settings.peak if middle < settings.peak else (1 - middle) / (1 - settings.peak)
    return 1.0


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Give every parameter group this learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = lr
