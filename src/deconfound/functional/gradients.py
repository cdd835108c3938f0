"""Gradients that are always there and always finite.

Shapes: any; the leaf and its gradient have the same.
"""

from __future__ import annotations

import torch
from torch import Tensor


def finite_gradient(total: Tensor, leaf: Tensor, keep: bool = False) -> Tensor:
    """D total / d leaf, 0 where it is not finite or missing: a network may cut its graph off, or divide by nothing.

    Args:
        total: a scalar.
        leaf: requires a gradient.
        keep: whether the graph of ``total`` is asked again.

    >>> leaf = torch.zeros(2, requires_grad=True)
    >>> finite_gradient(leaf.sqrt().sum(), leaf).tolist(), finite_gradient(torch.ones(()), leaf).tolist()
    ([0.0, 0.0], [0.0, 0.0])
    """
    if not total.requires_grad:
        return torch.zeros_like(leaf)
    (gradient,) = torch.autograd.grad(total, leaf, retain_graph=keep, materialize_grads=True)
    return gradient.nan_to_num(0.0, 0.0, 0.0)
