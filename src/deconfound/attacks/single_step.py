"""One gradient step: FGSM and FGSM-RS, which are PGD with one step of their own length.

Shapes: B examples; images (B, C, H, W), labels (B,) int64.
"""

from __future__ import annotations

from deconfound.attacks.gradient import PGD, Start
from deconfound.attacks.harness import Keep
from deconfound.attacks.losses import cross_entropy
from deconfound.core.guards import Mode
from deconfound.core.protocols import AttackLoss
from deconfound.core.threat import ThreatModel

# Wong, Rice & Kolter 2020, section 4: the longest step that does not yet overfit catastrophically on CIFAR-10.
FGSM_RS_STEP = 1.25


def FGSM(  # noqa: N802
    threat: ThreatModel,
    *,
    start: Start = "none",
    step_size: float | str | None = None,
    loss: AttackLoss = cross_entropy,
    keep: Keep = "first_adversarial",
    mode: Mode = "eval",
    name: str = "fgsm",
) -> PGD:
    """Fast gradient sign method (Goodfellow et al. 2015): x + eps sign(grad), or the norm's own steepest step.

    Args:
        threat: norm, radius and box.
        start: as in ``PGD``.
        step_size: None for eps.
        loss, keep, mode: as in ``PGD``.
        name: in records.

    Raises:
        InputError: as ``PGD``.

    >>> FGSM(ThreatModel("linf", 0.1)).settings()["step_size"]
    0.1
    """
    shared = {"step_size": step_size, "loss": loss, "keep": keep, "mode": mode, "name": name}
    return PGD(threat, steps=1, relative_step=1.0, start=start, **shared)  # type: ignore[arg-type]


def FGSMRS(  # noqa: N802
    threat: ThreatModel,
    *,
    step_size: float | str | None = None,
    restarts: int = 1,
    loss: AttackLoss = cross_entropy,
    keep: Keep = "first_adversarial",
    mode: Mode = "eval",
    name: str = "fgsm-rs",
) -> PGD:
    """FGSM from a random start (Wong et al. 2020): uniform in the ball, one step of 1.25 eps, projected.

    Args:
        threat: norm, radius and box.
        step_size: None for 1.25 eps.
        restarts, loss, keep, mode: as in ``PGD``.
        name: in records.

    Raises:
        InputError: as ``PGD``.

    >>> FGSMRS(ThreatModel("linf", 0.1)).settings()["step_size"]
    0.125
    """
    shared = {"step_size": step_size, "loss": loss, "keep": keep, "mode": mode, "name": name}
    return PGD(threat, steps=1, relative_step=FGSM_RS_STEP, restarts=restarts, **shared)  # type: ignore[arg-type]
