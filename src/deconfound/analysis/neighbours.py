"""Nearest neighbours in a space of features.

Shapes: N points, Q queries, d coordinates; points (N, d), labels (N,) int64, places (Q,) int64 within 0..N-1.
"""

from __future__ import annotations

import torch
from torch import Tensor

# Rows of distances held at once.
_ROWS = 256


def nearest(points: Tensor, places: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The nearest other points of some points, by Euclidean distance; the earlier place wins a tie.

    Args:
        points: (N, d).
        places: of the queries, (Q,).
        count: of neighbours, at most N - 1 are found.

    Returns:
        Places (Q, m) and distances (Q, m), nearest first, m = min(count, N - 1).

    >>> nearest(torch.tensor([[0.0], [5.0], [1.0], [5.0]]), torch.tensor([1]), 2)[0].tolist()
    [[3, 2]]
    """
    count = min(count, len(points) - 1)
    found = [_block(points, part, count) for part in places.split(_ROWS)]
    return torch.cat([places for places, _ in found]), torch.cat([distances for _, distances in found])


def _block(points: Tensor, places: Tensor, count: int) -> tuple[Tensor, Tensor]:
    # Not by products: |a|^2 + |b|^2 - 2ab of equal points is not 0, so duplicates would not be found.
    distances = torch.cdist(points[places], points, compute_mode="donot_use_mm_for_euclid_dist")
    distances[torch.arange(len(places)), places] = torch.inf
    if count == 1:
        order = distances.argmin(dim=1, keepdim=True)
        return order, distances.gather(1, order)
    values, order = distances.sort(dim=1, stable=True)
    return order[:, :count], values[:, :count]


def same_class(points: Tensor, labels: Tensor) -> float:
    """Share of the points whose nearest other point is of their class; 0 for a single point.

    >>> same_class(torch.tensor([[0.0], [0.1], [9.0]]), torch.tensor([1, 1, 1]))
    1.0
    """
    if len(points) < 2:
        return 0.0
    found, _ = nearest(points, torch.arange(len(points)), 1)
    return float((labels[found[:, 0]] == labels).double().mean())


def queries(labels: Tensor, at_most: int) -> Tensor:
    """Places of at most so many points, each the first of its class, the classes evenly spaced.

    >>> queries(torch.tensor([2, 0, 0, 1, 2]), 2).tolist()
    [1, 0]
    """
    classes = labels.unique()
    steps = torch.linspace(0, len(classes) - 1, min(at_most, len(classes)), dtype=torch.float64).round().long()
    return torch.stack([(labels == label).nonzero()[0, 0] for label in classes[steps]])
