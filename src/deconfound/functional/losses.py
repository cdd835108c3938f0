"""Losses per example, before any reduction.

Shapes: B examples, K classes; logits (B, K), labels (B,) int64, results (B,).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

# MART's constants (Wang et al. 2020, the authors' code): they keep logarithms off 0 and the weight of a certain, right
# prediction off 0.
MARGIN_ONE, WEIGHT_ONE, FLOOR = 1.0001, 1.0000001, 1e-12


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


def boosted_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """CE(z, y) - log(1.0001 - max_{k != y} p_k + 1e-12), MART's BCE (Wang et al. 2020, eq. 8).

    Finite also for saturated logits: the second term is at most -log(1e-4) = 9.2.
    """
    others = _exact(logits).softmax(dim=1).scatter(1, labels[:, None], 0.0).amax(dim=1)
    return cross_entropy(logits, labels) - (MARGIN_ONE - others + FLOOR).log()


def doubted_kl(reference: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
    """KL(p || q) (1.0000001 - p_y), p of the reference, q of the logits: more where p doubts the label.

    MART's second term (Wang et al. 2020, eq. 9); as in the authors' code log q is log(q + 1e-12), so that it is at most
    about 27.6 where ``kl_divergence`` grows with the logits. Both may carry a gradient.
    """
    log_p, q = _exact(reference).log_softmax(dim=1), _exact(logits).softmax(dim=1)
    p = log_p.exp()
    divergence = (p * (log_p - (q + FLOOR).log())).sum(dim=1)
    return divergence * (WEIGHT_ONE - p.gather(1, labels[:, None]).squeeze(1))
