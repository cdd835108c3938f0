"""Integrated gradients by ``captum``, and their pictures.

Shapes: B images (B, C, H, W) in [0, 1], labels (B,) int64, K classes; attributions (B, C, H, W), totals (B,).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from deconfound.core.pictures import png
from deconfound.errors import InputError
from deconfound.records import Saliency

STEPS = 64

# Okabe and Ito's blue and vermilion, as the figures have them.
_FOR, _AGAINST = (0.0, 0.447, 0.698), (0.835, 0.369, 0.0)
# The few strongest pixels shall not leave all others pale.
_QUANTILE = 0.99


@dataclass(frozen=True)
class Attributions:
    """Of each pixel to the true logit (B, C, H, W); the logits' difference and the error of the sum (B,)."""

    values: Tensor
    difference: Tensor
    error: Tensor


def load_library() -> Any:
    """``captum.attr``, loaded when it is needed.

    Raises:
        InputError: it is not installed.
    """
    try:
        from captum import attr
    except Exception as error:  # a broken installation raises more than ImportError
        rule = "a library that loads: pip install captum"
        raise InputError("captum", type(error).__name__, rule) from error
    return attr


def integrated_gradients(
    model: Callable[[Tensor], Tensor], images: Tensor, labels: Tensor, *, steps: int = STEPS, batch_size: int = 256
) -> Attributions:
    """x_i int_0^1 d z_y(a x) / d x_i da, from a black image; their sum is z_y(x) - z_y(0) up to the integration.

    Args:
        model: images -> logits (B, K).
        images: x.
        labels: y.
        steps: points of the Gauss-Legendre rule.
        batch_size: images at a time, at least B.

    Raises:
        InputError: no ``captum``.

    Source: Sundararajan, Taly, Yan 2017, equation 1 and proposition 1; computed by ``captum``.
    """
    method = load_library().IntegratedGradients(model)
    values = method.attribute(
        images, torch.zeros_like(images), target=labels, n_steps=steps, internal_batch_size=max(batch_size, len(images))
    ).detach()
    with torch.no_grad():
        both = (model(images), model(torch.zeros_like(images)))
    ends = [logits.double().gather(1, labels[:, None])[:, 0] for logits in both]
    difference = ends[0] - ends[1]
    return Attributions(values, difference, values.double().flatten(1).sum(dim=1) - difference)


def heat(values: Tensor) -> Tensor:
    """Attributions of an image (C, H, W) as colours (3, H, W): white for none, blue for the class, orange against it.

    >>> heat(torch.zeros(1, 2, 2)).unique().tolist()
    [1.0]
    """
    summed = values.double().sum(dim=0)
    most = summed.abs().flatten().quantile(_QUANTILE).clamp_min(1e-300)
    strength = (summed / most).nan_to_num(0.0).clamp(-1, 1)[None]
    colours = [
        torch.tensor(colour, dtype=torch.float64, device=values.device)[:, None, None] for colour in (_FOR, _AGAINST)
    ]
    return 1 + strength.clamp_min(0) * (colours[0] - 1) + (-strength).clamp_min(0) * (colours[1] - 1)


def saliencies(found: Attributions) -> list[Saliency]:
    """One record for each image."""
    rows = zip(found.values, found.difference, found.error, strict=True)
    return [
        Saliency(png=png(heat(values)), difference=float(difference), error=float(error))
        for values, difference, error in rows
    ]


__all__ = ["STEPS", "Attributions", "heat", "integrated_gradients", "load_library", "saliencies"]
