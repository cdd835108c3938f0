"""What a classifier says of natural images and of their adversarial versions.

Shapes: N images, K classes; logits (N, K), labels (N,) int64.
"""

from __future__ import annotations

import math

from torch import Tensor

from deconfound.functional.losses import soft_cross_entropy
from deconfound.functional.predictions import predicted
from deconfound.functional.statistics import wilson_interval
from deconfound.records import Accuracy, Reader, Share


def share_of(which: Tensor) -> Share:
    """Share of true entries in (N,) bool with its 95 % Wilson interval; of no entries it is NaN in [0, 1].

    >>> import torch
    >>> share_of(torch.tensor([True, False])).share
    0.5
    """
    count, n = int(which.sum()), len(which)
    if not n:
        return Share(share=math.nan, interval=(0.0, 1.0))
    return Share(share=count / n, interval=wilson_interval(count, n))


def accuracy(logits: Tensor, labels: Tensor) -> Accuracy:
    """Share of right predictions with its 95 % Wilson interval; an output with a NaN is wrong.

    >>> import torch
    >>> accuracy(torch.eye(4), torch.tensor([0, 1, 2, 0])).share
    0.75
    """
    return Accuracy(**share_of(predicted(logits) == labels).model_dump())


def reader(natural: Tensor, adversarial: Tensor, labels: Tensor) -> Reader:
    """Accuracies, and the mean soft cross entropy -sum_k p_k log q_k from natural p to adversarial q.

    Args:
        natural: logits on the natural images, p = softmax(natural).
        adversarial: logits on their adversarial versions, q = softmax(adversarial).
        labels: the truth.
    """
    natural, adversarial = natural.double(), adversarial.double()
    return Reader(
        natural=accuracy(natural, labels),
        adversarial=accuracy(adversarial, labels),
        entropy=float(soft_cross_entropy(natural, natural).mean()),
        shift=float(soft_cross_entropy(adversarial, natural).mean()),
    )
