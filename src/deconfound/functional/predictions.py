"""What a classifier says.

Shapes: B examples, K classes; logits (B, K), predictions (B,) int64.
"""

from __future__ import annotations

import torch
from torch import Tensor

NO_PREDICTION = -1


def predicted(logits: Tensor) -> Tensor:
    """The largest logit; -1 where an output holds a NaN: it predicts nothing, so it is wrong whatever the label.

    >>> import torch
    >>> predicted(torch.tensor([[0.0, 2.0], [float("nan"), 0.0]])).tolist()
    [1, -1]
    """
    return logits.argmax(dim=1).masked_fill(logits.isnan().any(dim=1), NO_PREDICTION)


def misses(draws: Tensor, labels: Tensor) -> Tensor:
    """Share of draws that predict something else than the label. draws (R, B, K), labels (B,) -> (B,) float64.

    >>> import torch
    >>> misses(torch.tensor([[[0.0, 2.0]], [[1.0, 0.0]]]), torch.tensor([0])).tolist()
    [0.5]
    """
    return torch.stack([predicted(logits) != labels for logits in draws]).double().mean(dim=0)
