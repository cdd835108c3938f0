"""Style: the directions of a feature that are uncorrelated with the content logits.

Shapes: B examples, K classes, D features; weight W (K, D), covariance S (D, D), crossed W S (K, D), basis (D, D).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

# Of the released code: a feature of zero norm stays finite.
GUARD = 1e-6
# Directions of W S below this share of the largest singular value are rounding noise of a float32 covariance.
RANK_TOLERANCE = 1e-5


class Basis(NamedTuple):
    """A style basis.

    Attributes:
        matrix: B (D, D), rows of length 1; style is n(f) B^T.
        leakage: the largest |cosine| between a row of W S and a row of B; 0 up to rounding where nothing leaks. It is
            cheap enough for every batch, but no measure of how much leaks: many small cosines together can be all.
    """

    matrix: Tensor
    leakage: float


def unit(features: Tensor) -> Tensor:
    """n(f) = f / (|f| + 1e-6) for features (B, D); 0 stays 0."""
    return features / (torch.linalg.vector_norm(features, dim=1, keepdim=True) + GUARD)


def anchors(dimension: int, generator: torch.Generator) -> Tensor:
    """D orthonormal rows: of 4D random directions the D nearest to orthogonal, then orthonormalised by QR, (D, D).

    Those with the least sum of |cosine| to all others are kept, in one product instead of D^2 steps.
    """
    drawn = torch.nn.functional.normalize(torch.randn(4 * dimension, dimension, generator=generator), dim=1)
    nearness = (drawn @ drawn.T).abs().sum(dim=1)
    kept = drawn[nearness.topk(dimension, largest=False).indices]
    return torch.linalg.qr(kept.T).Q.T.contiguous()


def exact_basis(crossed: Tensor, start: Tensor) -> Tensor:
    """The anchors on the orthogonal complement of the row space of W S, rows renormalised: W S B^T = 0.

    The row space is that of the singular values above 1e-5 of the largest. Where it would leave less than D/2
    directions, only the D/2 leading ones are removed.

    Args:
        crossed: W S, (K, D).
        start: anchors, (D, D).

    Returns:
        B (D, D).

    Departure from the authors' code: they remove the rows of W S one after another (``deflated_basis``), of which only
    the last removal holds.

    >>> crossed = torch.tensor([[1.0, 1.0, 0.0, 0.0], [2.0, 2.0, 0.0, 0.0]])
    >>> bool((crossed @ exact_basis(crossed, torch.eye(4)).T).abs().max() < 1e-6)
    True
    """
    space, rank = _row_space(crossed)
    space = space[: min(rank, start.shape[1] // 2)]
    basis = start
    for _ in range(2):  # the second pass removes what rounding left in the first
        basis = torch.nn.functional.normalize(basis - (basis @ space.T) @ space, dim=1)
    return basis


def _row_space(crossed: Tensor) -> tuple[Tensor, int]:
    """Right singular vectors in descending order, at most min(K, D) of them, and the rank.

    By the eigenvectors of the smaller Gram matrix in double precision, where a singular value of 1e-5 of the largest
    is an eigenvalue of 1e-10: on an accelerator a fraction of the time of a singular value decomposition.
    """
    double = (crossed.cpu() if crossed.device.type == "mps" else crossed).double()  # that device has no double
    wide = crossed.shape[0] <= crossed.shape[1]
    squares, vectors = torch.linalg.eigh(double @ double.T if wide else double.T @ double)
    values, vectors = squares.flip(0).clamp_min(0).sqrt(), vectors.flip(1)
    rank = int((values > RANK_TOLERANCE * values[:1]).sum())
    rows = (vectors.T[:rank] @ double) / values[:rank, None] if wide else vectors.T[:rank]
    return rows.to(crossed), rank


def deflated_basis(crossed: Tensor, start: Tensor) -> Tensor:
    """The released code's basis, (D, D): each row of W S removed in turn, the rows renormalised after each removal.

    The rows of W S are not orthogonal to each other, so a later removal brings an earlier row back: style leaks
    content, all but that of the last class. Sequential by its definition.

    Args:
        crossed: W S, (K, D).
        start: anchors, (D, D).
    """
    basis = start
    for row in torch.nn.functional.normalize(crossed, dim=1):
        basis = torch.nn.functional.normalize(basis - (basis @ row)[:, None] * row, dim=1)
    return basis


def left_out(crossed: Tensor, basis: Tensor) -> int:
    """How many directions of content a basis leaves out: dim {v in the row space of W S: B v = 0}.

    The rank of W S less that of B on its row space, singular values below 1e-5 of the largest of B being rounding.

    Args:
        crossed: W S, (K, D).
        basis: B, (D, D).

    >>> crossed = torch.tensor([[1.0, 0.0, 0.0, 0.0], [1.0, 1.0, 0.0, 0.0]])
    >>> start = anchors(4, torch.Generator().manual_seed(0))
    >>> [left_out(crossed, make(crossed, start)) for make in (exact_basis, deflated_basis)]
    [2, 1]
    """
    crossed, basis = crossed.double(), basis.double()
    space, rank = _row_space(crossed)
    kept = torch.linalg.svdvals(basis @ space[:rank].T)
    return rank - int((kept > RANK_TOLERANCE * torch.linalg.matrix_norm(basis, ord=2)).sum())


def leakage(crossed: Tensor, basis: Tensor) -> Tensor:
    """The largest |cosine| between a row of W S (K, D) and a row of B (D, D), a scalar."""
    normalize = torch.nn.functional.normalize
    return (normalize(crossed, dim=1) @ normalize(basis, dim=1).T).abs().amax()
