"""Correlations of style with content.

Shapes: N images, K classes, d features; weight W (K, d), covariance Sigma (d, d), basis B (d, d) with unit rows (zero
rows where there is no direction left), content (N, K), style (N, d). Everything is computed in float64.
"""

from __future__ import annotations

import torch
from torch import Tensor

from deconfound.errors import require
from deconfound.records import Correlations

# Below this share of the largest variance a coordinate is constant up to rounding, and correlates with nothing.
CONSTANT = 1e-12


def stored_correlations(weight: Tensor, covariance: Tensor, basis: Tensor) -> Correlations:
    """Correlations of content logits W n and style coordinates B n under a covariance of n.

    rho_kj = (W Sigma B^T)_kj / sqrt((W Sigma W^T)_kk (B Sigma B^T)_jj).

    Args:
        weight: of the last layer, (K, d).
        covariance: of the unit features, (d, d).
        basis: (d, d).

    Raises:
        InputError: numbers that are not finite.
    """
    weight, covariance = finite("weight", weight.double()), finite("covariance", covariance.double())
    basis = finite("basis", basis.double())
    crossed = weight @ covariance
    content = (crossed * weight).sum(dim=1)
    style = (basis @ covariance * basis).sum(dim=1)
    return _summary(crossed @ basis.T, content, style)


def measured_correlations(content: Tensor, style: Tensor) -> Correlations:
    """Pearson's correlations of every content logit with every style coordinate over some images.

    Args:
        content: (N, K).
        style: (N, d).

    Raises:
        InputError: numbers that are not finite.

    >>> column = torch.arange(4.0)[:, None]
    >>> round(measured_correlations(column, torch.cat([column, -column], dim=1)).mean, 6)
    1.0
    """
    content, style = finite("content", content.double()), finite("style", style.double())
    content, style = content - content.mean(dim=0), style - style.mean(dim=0)
    return _summary(content.T @ style, content.square().sum(dim=0), style.square().sum(dim=0))


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


def _summary(products: Tensor, content: Tensor, style: Tensor) -> Correlations:
    content, style = _varying(content), _varying(style)
    sizes = _ratio(products, content.sqrt()[:, None] * style.sqrt()[None])
    return Correlations(largest=float(sizes.max()), mean=float(sizes.mean()))


def _varying(variances: Tensor) -> Tensor:
    """The variances, 0 for those that are rounding errors beside the largest."""
    return variances.where(variances > CONSTANT * variances.max(), torch.zeros_like(variances))


def _ratio(products: Tensor, lengths: Tensor) -> Tensor:
    """Absolute quotients at most 1; 0 where there is nothing to divide by."""
    quotients = products.abs() / lengths.where(lengths > 0, torch.ones_like(lengths))
    return quotients.masked_fill(lengths <= 0, 0.0).clamp(max=1.0)
