"""Losses per example, before any reduction.

Shapes: B examples, K classes; logits (B, K), labels (B,) int64, results (B,).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def _exact(logits: Tensor) -> Tensor:
    """Logits in at least float32: in half precision a small KL is rounding noise, and so is its gradient."""
    return logits.float() if logits.dtype in (torch.bfloat16, torch.float16) else logits


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """-log softmax(logits)_y."""
    return F.cross_entropy(_exact(logits), labels, reduction="none")


def soft_cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """-sum_k softmax(target)_k log softmax(logits)_k."""
    return -(_exact(target).softmax(dim=1) * _exact(logits).log_softmax(dim=1)).sum(dim=1)


def kl_divergence(reference: Tensor, logits: Tensor) -> Tensor:
    """KL(softmax(reference) || softmax(logits)), finite also for saturated logits."""
    log_p, log_q = _exact(reference).log_softmax(dim=1), _exact(logits).log_softmax(dim=1)
    return (log_p.exp() * (log_p - log_q)).sum(dim=1)


def margin(logits: Tensor, labels: Tensor) -> Tensor:
    """Largest z_k over k != y minus z_y (Carlini & Wagner 2017): positive exactly where the prediction is wrong."""
    logits = _exact(logits)
    others = logits.scatter(1, labels[:, None], -torch.inf).amax(dim=1)
    return others - logits.gather(1, labels[:, None]).squeeze(1)
