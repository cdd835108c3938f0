"""Causal inversion (Kim, Lee, Ro 2023, arXiv 2303.01052) as an attack: towards a prediction instead of away from it."""

from __future__ import annotations

import logging
from typing import Any

from deconfound.attacks.gradient import PGD
from deconfound.attacks.losses import closeness_to_target
from deconfound.core.threat import ThreatModel, parse_radius, show_radius

STEP = 2.3
"""All steps together in units of gamma, as the authors have it."""

_logger = logging.getLogger(__name__)


def causal_inversion(gamma: float | str, steps: int = 10, *, eps: float | str | None = None, **settings: Any) -> PGD:
    """Sign descent on KL(p(x + d) || target) over |d|_inf <= gamma and [0, 1], step 2.3 gamma / steps.

    It starts uniformly in the ball, and every point takes every step. Call it with the context ``target_logits``
    (B, K), which stay constant.

    Args:
        gamma: the radius, a number or a fraction. Per data set and network the authors have, for VGG, ResNet and WRN:
            CIFAR-10 0.03, 4/255, 2/255; SVHN 4/255, 1/255, 1/255; Tiny-ImageNet 1/255, 0.5/255, 0.5/255.
        steps: 10, or 3 on Tiny-ImageNet.
        eps: the defence's radius; a gamma above it is allowed and warned of.
        settings: further settings of ``PGD``, such as ``start`` or ``mode``.

    Raises:
        InputError: a setting out of range.

    >>> round(causal_inversion("4/255").step * 255, 6)
    0.92
    """
    radius = parse_radius(gamma, "gamma")
    if eps is not None and radius > parse_radius(eps):
        _logger.warning(
            "causal inversion looks further than the attack: gamma %s is above eps %s",
            show_radius(radius),
            show_radius(parse_radius(eps)),
        )
    usual: dict[str, Any] = {"relative_step": STEP, "start": "uniform", "keep": "last", "name": "causal-inversion"}
    return PGD(ThreatModel("linf", radius), steps=steps, loss=closeness_to_target, **usual | settings)
