"""Losses and their gradients at an iterate, averaged over the draws of a random model (EOT, Athalye et al. 2018).

Shapes: B examples, R draws; images, gradients (B, C, H, W), labels (B,) int64, losses (B,).
"""

from __future__ import annotations

import torch
from torch import Tensor

from deconfound.attacks.points import Points
from deconfound.core.draws import bound
from deconfound.core.protocols import AttackLoss, Classifier
from deconfound.functional.gradients import finite_gradient


def input_gradient(
    loss: AttackLoss, model: Classifier, images: Tensor, points: Points, draws: int = 1, *tick: int | str
) -> tuple[Tensor, Tensor]:
    """Mean over R draws of the loss, (B,), and d(sum of it)/d(images), with 0 where that is not finite or missing.

    Args:
        loss: what is climbed.
        model: the surrogate; a stochastic one draws from the points' streams, folded with ``tick`` and the draw.
        images: the iterate (B, C, H, W); needs no gradient of its own.
        points: labels, streams and context of the same examples.
        draws: R. An ordinary model is called R times, which matters where it draws from the global generator.
        tick: what tells this call from other ones, such as the step.
    """
    leaf = images if images.requires_grad else images.detach().requires_grad_()
    values, gradient = None, None
    for draw in range(draws):
        one = loss(bound(model, points.streams.fold("draw", *tick, draw)), leaf, points.labels, points.context)
        part = finite_gradient(one.sum(), leaf)
        values = one.detach() if values is None else values + one.detach()
        gradient = part if gradient is None else gradient.add_(part)
    assert values is not None
    assert gradient is not None
    return (values, gradient) if draws == 1 else (values / draws, gradient.div_(draws))


def expected_loss(
    loss: AttackLoss, model: Classifier, images: Tensor, points: Points, draws: int = 1, *tick: int | str
) -> Tensor:
    """Mean over R draws of the loss, (B,), without gradient; arguments as in ``input_gradient``."""
    with torch.no_grad():
        total = None
        for draw in range(draws):
            one = loss(bound(model, points.streams.fold("draw", *tick, draw)), images, points.labels, points.context)
            total = one if total is None else total + one
        assert total is not None
        return total if draws == 1 else total / draws
