"""BatchNorm statistics of averaged weights: those that training finds when it has these weights.

Running statistics of single networks, averaged, are not the statistics of the network with the averaged weights.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

IMAGES = 2048
"""Statistics are estimated on so many training images, or on an epoch where that has fewer."""


def normalisers(model: nn.Module) -> list[_BatchNorm]:
    """The BatchNorm layers of a network that keep running statistics."""
    return [m for m in model.modules() if isinstance(m, _BatchNorm) and m.running_mean is not None]


def batches_for(batch_size: int) -> int:
    """Batches that hold ``IMAGES``.

    >>> batches_for(128), batches_for(3000)
    (16, 1)
    """
    return math.ceil(IMAGES / batch_size)


def forget(model: nn.Module) -> None:
    """The next batch in train mode is the first that the statistics of ``standing_in`` hold."""
    for layer in normalisers(model):
        if layer.num_batches_tracked is not None:
            layer.num_batches_tracked.zero_()


@contextmanager
def standing_in(model: nn.Module, average: nn.Module) -> Iterator[None]:
    """The model has the average's weights inside, in train mode, and its running statistics are plain means of batches.

    Statistics at the end are the average's from then on. The model comes back bit for bit as it was.

    Args:
        model: that is trained; what refers to it sees the average inside.
        average: a copy of it with other weights.
    """
    ours, theirs = normalisers(model), normalisers(average)
    saved = {key: value.detach().clone() for key, value in model.state_dict().items()}
    momenta, modes = [layer.momentum for layer in ours], [(m, m.training) for m in model.modules()]
    try:
        model.load_state_dict(average.state_dict())
        model.train()
        for layer in ours:
            layer.momentum = None  # of a mean over all batches, each alike
        yield
        with torch.no_grad():
            for mine, other in zip(ours, theirs, strict=True):
                for name in ("running_mean", "running_var"):
                    getattr(other, name).copy_(getattr(mine, name))
    finally:
        for layer, momentum in zip(ours, momenta, strict=True):
            layer.momentum = momentum
        for module, training in modes:
            module.training = training
        model.load_state_dict(saved)
