"""Means over images with their intervals.

Shapes: N images; values (N,).
"""

from __future__ import annotations

import math

from torch import Tensor

from deconfound.records import Mean


def mean_of(values: Tensor) -> Mean:
    """The mean of (N,) with its 95 % interval by the normal approximation; of one value there is no interval.

    One NaN makes it NaN, and so does having no value: who may leave values out does it before.

    >>> import torch
    >>> mean_of(torch.tensor([1.0, 3.0])).value
    2.0
    """
    values = values.double()
    value = float(values.mean())
    half = 1.96 * float(values.std()) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return Mean(value=value, interval=(value - half, value + half))
