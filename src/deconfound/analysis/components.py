"""Principal components, and how much of an outcome some directions predict.

Shapes: N images, D features, P components; values (N, D), scores (N, P), outcome (N,).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from deconfound.errors import require

# Beside the largest variance, what is left of a direction without any: rounding of features in float32.
_NOTHING = 1e-10
# Ridge penalties in units of the largest variance: from next to none to a fit that says hardly anything.
_PENALTIES = tuple(10.0**power for power in range(-9, 2))


@dataclass(frozen=True)
class Components:
    """Scores (N, P) of unit variance, and the share of the variance that they hold."""

    scores: Tensor
    share: float


def principal_components(values: Tensor, count: int, field: str) -> Components:
    """The first principal components of some values, each with mean 0 and variance 1.

    The eigenvectors of the smaller of the two Gram matrices, in float64; of each the sign is such that its largest
    score is positive.

    Args:
        values: (N, D), finite.
        count: P.
        field: what messages call the count.

    Raises:
        InputError: values of fewer than P independent directions, or that are not finite.

    >>> found = principal_components(torch.tensor([[0.0, 0.0], [2.0, 1.0], [4.0, 2.0]]), 1, "treatments")
    >>> [round(x, 4) for x in found.scores[:, 0].abs().tolist()], round(found.share, 4)
    ([1.2247, 0.0, 1.2247], 1.0)
    """
    centred = values.detach().double()
    centred = centred - centred.mean(dim=0)
    require(bool(torch.isfinite(centred).all()), "features", "NaN or infinity", "finite features at the cut")
    tall = len(centred) >= centred.shape[1]
    variances, vectors = torch.linalg.eigh(centred.T @ centred if tall else centred @ centred.T)
    variances, vectors = variances.flip(0).clamp_min(0), vectors.flip(1)
    rank = int((variances > _NOTHING * variances.max()).sum())
    require(count <= rank, field, count, f"at most {rank}, the independent directions in {len(values)} images")
    scores = (centred @ vectors if tall else vectors)[:, :count]
    scores = scores / scores.square().mean(dim=0).sqrt()
    signs = scores.gather(0, scores.abs().argmax(dim=0)[None]).sign()
    return Components(scores * signs, float(variances[:count].sum() / variances.sum()))


def predicted_share(values: Tensor, outcome: Tensor) -> float:
    """Share of the outcome's variance that a ridge regression predicts, each image left out of its own fit.

    R^2 = 1 - sum (e_i / (1 - h_ii))^2 / sum (d_i / (1 - 1/N))^2, e the residuals of the fit, h its hat matrix with a
    free constant, d the distances to the mean. The penalty is the best of 11 by the same sum, so that more directions
    than images do no harm; it is below 0 where nothing is predicted.

    Args:
        values: (N, D), finite, N of at least 3.
        outcome: (N,), finite and not constant.

    Source: Allen 1974 (PRESS).

    >>> line = torch.arange(8.0)[:, None]
    >>> round(predicted_share(line, 3 * line[:, 0] + 1), 6)
    1.0
    """
    x, y = (one.detach().double() - one.detach().double().mean(dim=0) for one in (values, outcome))
    n = len(y)
    tall = n >= x.shape[1]
    variances, vectors = torch.linalg.eigh(x.T @ x if tall else x @ x.T)
    kept = variances > _NOTHING * variances.max()
    variances, vectors = variances[kept], vectors[:, kept]
    left = x @ vectors / variances.sqrt() if tall else vectors
    projected = left.T @ y
    found = []
    for penalty in _PENALTIES:
        shrunk = variances / (variances + penalty * variances.max())
        hat = left.square() @ shrunk + 1 / n
        found.append(((y - left @ (shrunk * projected)) / (1 - hat)).square().sum())
    return 1 - float(torch.stack(found).min() / (y / (1 - 1 / n)).square().sum())
