"""Running means and covariances of classes, in full, as diagonals or as low-rank factors.

Shapes: B examples, K classes, P classes present in a batch, M examples of the largest of them, D features, R rank.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class ClassRows(NamedTuple):
    """A batch by class.

    Attributes:
        present: the classes in ascending order, (P,) int64.
        counts: examples of each, (P,) int64.
        mean: of each, (P, D).
        deviations: features minus their class mean, then zeros, (P, M, D).
    """

    present: Tensor
    counts: Tensor
    mean: Tensor
    deviations: Tensor

    @property
    def covariance(self) -> Tensor:
        """The biased (1/n) covariance of each class, (P, D, D)."""
        return self.deviations.mT @ self.deviations / self.counts[:, None, None]


def class_rows(features: Tensor, labels: Tensor) -> ClassRows:
    """Group the features of a batch by class; only classes that are there take memory.

    Args:
        features: (B, D) float, B at least 1.
        labels: (B,) int64.

    >>> rows = class_rows(torch.tensor([[0.0], [4.0], [1.0]]), torch.tensor([7, 7, 2]))
    >>> rows.present.tolist(), rows.mean.flatten().tolist(), rows.covariance.flatten().tolist()
    ([2, 7], [1.0, 2.0], [0.0, 4.0])
    """
    present, places, count = labels.unique(return_inverse=True, return_counts=True)  # type: ignore[no-untyped-call]
    order = places.argsort(stable=True)
    within = torch.arange(len(labels), device=labels.device) - (count.cumsum(0) - count)[places[order]]
    rows = features.new_zeros(len(present), int(count.max()), features.shape[1])
    rows[places[order], within] = features[order]  # no two to one place, so sums have one order on every device
    mean = rows.sum(dim=1) / count[:, None]
    rows[places[order], within] -= mean[places[order]]
    return ClassRows(present, count, mean, rows)


def batch_weight(before: Tensor, count: Tensor, momentum: float | None = None) -> Tensor:
    """The share w of a batch in the running moments, (P,): n_b / (n + n_b), and at least ``momentum`` where given.

    Without momentum all examples ever seen weigh the same; with it the average forgets exponentially, and is a plain
    mean for as long as that forgets faster, so that no start value is left in it.

    Args:
        before: examples seen so far, n (P,).
        count: examples in the batch, n_b (P,), at least 1.
        momentum: in (0, 1], or None.

    >>> batch_weight(torch.tensor([0, 90]), torch.tensor([10, 10]), momentum=0.5).tolist()
    [1.0, 0.5]
    """
    weight = count / (before + count)
    return weight if momentum is None else weight.clamp_min(momentum)


def increments(rows: ClassRows, mean: Tensor, weight: Tensor) -> Tensor:
    """Rows F with F^T F = w C_b + w (1 - w) (m_b - m)(m_b - m)^T, what a batch adds to (1 - w) C, (P, M + 1, D).

    C_b is the batch's biased covariance and the second term the cross term of two means (Wang et al. 2019, ISDA,
    eq. 4, which CausalAdv takes over).

    Args:
        rows: the batch.
        mean: the running means m of the classes present, (P, D).
        weight: w, (P,).
    """
    inner = (weight / rows.counts).sqrt()[:, None, None] * rows.deviations
    between = (weight * (1 - weight)).sqrt()[:, None] * (rows.mean - mean)
    return torch.cat([inner, between[:, None]], dim=1)


def merge_full_(covariance: Tensor, present: Tensor, added: Tensor, weight: Tensor) -> None:
    """C_y <- (1 - w) C_y + F^T F in place for the classes y present, C (K, D, D) and F = ``added`` (P, M + 1, D).

    One class at a time: a copy of all the matrices involved would take longer than the products.
    """
    for label, kept, rows in zip(present.tolist(), (1 - weight).tolist(), added, strict=True):
        covariance[label].addmm_(rows.T, rows, beta=kept)


def merged_diagonal(variance: Tensor, added: Tensor, weight: Tensor) -> Tensor:
    """The diagonal of the same for variances (P, D)."""
    return (1 - weight)[:, None] * variance + added.square().sum(dim=1)


def merged_low_rank(factors: Tensor, added: Tensor, weight: Tensor) -> Tensor:
    """The best rank-R approximation of (1 - w) S^T S + F^T F, again as factors S (P, R, D).

    The rows sqrt(1 - w) S and F are stacked to A; with E the R leading eigenvectors of A A^T, S <- E^T A, and S^T S is
    A^T A without its smaller eigenvalues (Eckart-Young). Exact as long as a class's covariance has rank R at most;
    beyond, every update drops what is smallest then, so that variance is lost and never invented.
    """
    stacked = torch.cat([(1 - weight).sqrt()[:, None, None] * factors, added], dim=1)
    _, vectors = torch.linalg.eigh(stacked @ stacked.mT)
    return vectors[:, :, -factors.shape[1] :].mT @ stacked
