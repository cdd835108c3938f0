"""Correlations of style with content: coordinate by coordinate, and of all their combinations.

Shapes: N images, K classes, d features; weight W (K, d), covariance Sigma (d, d), basis B (d, d) with unit rows (zero
rows where there is no direction left), content (N, K), style (N, d). Everything is computed in float64.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from deconfound.errors import require
from deconfound.records import Correlations

# Below this share of the largest variance a coordinate is constant up to rounding, and correlates with nothing.
CONSTANT = 1e-12
# Combinations below this share of the largest standard deviation are rounding of float32, not anything to read.
RANK_TOLERANCE = 1e-5


class Sides(NamedTuple):
    """Content and style, each centred, ready to be correlated.

    Attributes:
        content: columns of length 1, or 0 where constant, (N, K).
        style: the same, (N, d).
        content_axes: orthonormal basis of the columns of content, (N, rank).
        style_axes: of style, (N, rank).
    """

    content: Tensor
    style: Tensor
    content_axes: Tensor
    style_axes: Tensor


def stored_correlations(weight: Tensor, covariance: Tensor, basis: Tensor) -> Correlations:
    """Correlations of content logits W n and style coordinates B n under a covariance of n.

    rho_kj = (W Sigma B^T)_kj / sqrt((W Sigma W^T)_kk (B Sigma B^T)_jj); the canonical ones are the singular values of
    (W Sigma W^T)^(-1/2) W Sigma B^T (B Sigma B^T)^(-1/2), with pseudo-inverses.

    Args:
        weight: of the last layer, (K, d).
        covariance: of the unit features, (d, d).
        basis: (d, d).

    Raises:
        InputError: numbers that are not finite.
    """
    return summary(_sides(*_spread(weight, covariance, basis)))


def measured_correlations(content: Tensor, style: Tensor) -> Correlations:
    """Pearson's and the canonical correlations of content logits with style coordinates over some images.

    With no more images than style has directions, any content is a combination of style: canonical correlations of 1.

    Args:
        content: (N, K).
        style: (N, d).

    Raises:
        InputError: numbers that are not finite.

    >>> column = torch.arange(4.0)[:, None]
    >>> round(measured_correlations(column, torch.cat([column, -column], dim=1)).mean, 6)
    1.0
    """
    return summary(sides(content, style))


def recovered(weight: Tensor, covariance: Tensor, basis: Tensor, content: Tensor, style: Tensor) -> float | None:
    """What a linear reader of style knows of content over images that it was not fitted to.

    R^2 = 1 - |C - S M|^2 / |C|^2 for centred content C and style S, with M = (B Sigma B^T)^+ B Sigma W^T, the best
    reader under Sigma. Below 0 where its errors are larger than the spread of the content logits.

    Args:
        weight: W, (K, d).
        covariance: Sigma of the unit features, (d, d).
        basis: B, (d, d).
        content: of the images, (N, K).
        style: of the images, (N, d).

    Returns:
        R^2, None where content does not vary.

    Raises:
        InputError: numbers that are not finite.
    """
    first, second = _spread(weight, covariance, basis)
    axes, sizes, directions = _decomposed(second)
    content, style = _centred("content", content), _centred("style", style)
    spread = content.square().sum()
    if not spread > 0:
        return None
    read = (style @ directions / sizes) @ (axes.T @ first)
    return float(1 - (content - read).square().sum() / spread)


def sides(content: Tensor, style: Tensor) -> Sides:
    """Content (N, K) and style (N, d) of some images, centred.

    Raises:
        InputError: numbers that are not finite.
    """
    return _sides(_centred("content", content), _centred("style", style))


def summary(both: Sides, order: Tensor | None = None) -> Correlations:
    """Absolute correlations of two sides.

    Args:
        both: what is correlated.
        order: of the rows of content, (N,) int64; as they are where it is None.
    """
    content, axes = (side if order is None else side[order] for side in (both.content, both.content_axes))
    sizes = (content.T @ both.style).abs().clamp(max=1.0)
    cosines = torch.linalg.svdvals(axes.T @ both.style_axes).clamp(max=1.0)
    return Correlations(
        largest=float(sizes.max()),
        mean=float(sizes.mean()),
        canonical_largest=float(cosines.max()) if len(cosines) else 0.0,
        canonical_mean_square=float(cosines.square().sum()) / max(axes.shape[1], 1),
    )


def finite(field: str, numbers: Tensor) -> Tensor:
    """The numbers, refused unless all are finite: no comparison is true of NaN, so it would pass for uncorrelated.

    Args:
        field: what an error calls them.
        numbers: any shape.

    Raises:
        InputError: any is NaN or infinite.
    """
    bad = int((~numbers.isfinite()).sum())
    require(not bad, field, f"{bad} of {numbers.numel()} not finite", "finite numbers")
    return numbers


def _centred(field: str, numbers: Tensor) -> Tensor:
    numbers = finite(field, numbers.double())
    return numbers - numbers.mean(dim=0)


def _spread(weight: Tensor, covariance: Tensor, basis: Tensor) -> tuple[Tensor, Tensor]:
    """R W^T (d, K) and R B^T (d, d) with R^T R = Sigma: rows whose products are the covariances under Sigma."""
    weight, basis = finite("weight", weight.double()), finite("basis", basis.double())
    values, vectors = torch.linalg.eigh(finite("covariance", covariance.double()))
    root = values.clamp_min(0).sqrt()[:, None] * vectors.T
    return root @ weight.T, root @ basis.T


def _sides(content: Tensor, style: Tensor) -> Sides:
    return Sides(_unit(content), _unit(style), _decomposed(content)[0], _decomposed(style)[0])


def _unit(columns: Tensor) -> Tensor:
    """The columns with length 1, or 0 for those that are rounding errors beside the longest."""
    variances = columns.square().sum(dim=0)
    varying = variances > CONSTANT * variances.max()
    return columns * torch.where(varying, variances.where(varying, torch.ones_like(variances)).rsqrt(), 0.0)


def _decomposed(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """U (N, rank), singular values (rank,) and V (d, rank) of a matrix (N, d), without what is rounding."""
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    rank = int((values > RANK_TOLERANCE * values[:1]).sum())
    return left[:, :rank], values[:rank], right[:rank].T
