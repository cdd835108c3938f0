"""Gaussian marginalisation over style in closed form: what the covariance of its features adds to each logit.

Shapes: K classes, P labels, D features, R rank; head V (K, D), tables (P, K).
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from deconfound.errors import unknown_name

Form = Literal["full", "low-rank", "diagonal"]
FORMS: tuple[Form, ...] = ("full", "low-rank", "diagonal")


def correction_table(head: Tensor, covariance: Tensor, labels: Tensor, ratio: float, form: Form = "full") -> Tensor:
    """The correction of every logit j for every label y, (ratio / 2) (V_j - V_y)^T S_y (V_j - V_y), (P, K).

    E exp(v^T u) = exp(v^T m + v^T S v / 2) for u ~ N(m, S): the softmax cross entropy over all styles of covariance
    ratio * S_y is bounded by that of the logits plus this (Wang et al. 2019, ISDA, prop. 1; CausalAdv, section 4.2).

    Args:
        head: V, (K, D); the gradient flows to it.
        covariance: S of all K classes: (K, D, D) full, (K, R, D) factors with S = F^T F, or (K, D) diagonals.
        labels: the labels y, each once, (P,) int64.
        ratio: strength of the marginalisation, at least 0.
        form: which of the three.

    Departure from the authors' code: they form (V_j - V_y) for every example at every attack step, B K D numbers;
    the correction depends on the label alone.

    Raises:
        InputError: an unknown form.

    >>> V, S = torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.eye(2).expand(2, 2, 2)
    >>> correction_table(V, S, torch.tensor([1]), ratio=1.0).tolist()
    [[2.5, 0.0]]
    """
    if form == "full":
        table: Tensor = _Quadratic.apply(head, covariance, labels)  # type: ignore[no-untyped-call]
    elif form == "low-rank":
        projected = covariance[labels] @ head.T  # (P, R, K)
        own = projected.gather(2, labels[:, None, None].expand(-1, projected.shape[1], 1))
        table = (projected - own).square().sum(dim=1)
    elif form == "diagonal":
        variance, own = covariance[labels], head[labels]
        table = variance @ head.square().T - 2 * (variance * own) @ head.T + (variance * own * own).sum(1, keepdim=True)
    else:
        raise unknown_name("form", str(form), FORMS)
    return 0.5 * ratio * table


class _Quadratic(torch.autograd.Function):
    """q_yj = (V_j - V_y)^T S_y (V_j - V_y) one label at a time, S_y symmetric; nothing of size P K D is kept.

    With Q = V S_y and e_j = Q_j . V_j: q_yj = e_j - 2 Q_j . V_y + e_y; dq_yj/dV_j = 2 (Q_j - Q_y) = -dq_yj/dV_y.
    """

    @staticmethod
    def forward(ctx: Any, head: Tensor, covariance: Tensor, labels: Tensor) -> Tensor:
        """The table (P, K)."""
        ctx.save_for_backward(head, covariance, labels)
        rows = []
        for label in labels.tolist():
            crossed = head @ covariance[label]
            squares = (crossed * head).sum(dim=1)
            rows.append(squares - 2 * (crossed @ head[label]) + squares[label])
        return torch.stack(rows)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None]:
        """The gradient for the head, (K, D)."""
        head, covariance, labels = ctx.saved_tensors
        gradient = torch.zeros_like(head)
        for row, label in zip(upstream, labels.tolist(), strict=True):
            part = (head - head[label]) @ covariance[label] * (2 * row)[:, None]
            gradient += part
            gradient[label] -= part.sum(dim=0)
        return gradient, None, None
