"""One gradient step: FGSM and FGSM-RS, both a PGD of a single step.

Shapes: B examples; images (B, C, H, W), labels (B,) int64.
"""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass, replace
from typing import Any, Self

from torch import Tensor

from deconfound.attacks.gradient import PGD, Start
from deconfound.attacks.harness import Keep
from deconfound.attacks.losses import cross_entropy
from deconfound.core.guards import Mode
from deconfound.core.protocols import AttackLoss, Classifier, Judge
from deconfound.core.streams import Streams
from deconfound.core.threat import ThreatModel
from deconfound.core.types import Context
from deconfound.errors import require

# Wong, Rice & Kolter 2020, section 4: the longest step that does not yet overfit catastrophically on CIFAR-10.
FGSM_RS_STEP = 1.25


def _one_step(threat: ThreatModel, step_size: float | str | None, factor: float, **settings: Any) -> PGD:
    require(isinstance(threat, ThreatModel), "threat", threat, "a ThreatModel")
    if step_size is None and threat.eps > 0:
        step_size = factor * threat.eps
    return PGD(threat, steps=1, step_size=step_size, **settings)


@dataclass(frozen=True)
class FGSM:
    """Fast gradient sign method (Goodfellow et al. 2015): x + eps sign(grad), or the norm's own steepest step.

    Args:
        threat: norm, radius and box.
        start: as in ``PGD``.
        step_size: None for eps.
        loss: what is climbed.
        keep: as in ``PGD``.
        mode: as in ``PGD``.
        name: in records.

    Raises:
        InputError: as ``PGD``.

    >>> FGSM(ThreatModel("linf", 0.1)).settings()["step_size"]
    0.1
    """

    threat: ThreatModel
    _: KW_ONLY
    start: Start = "none"
    step_size: float | str | None = None
    loss: AttackLoss = cross_entropy
    keep: Keep = "first_adversarial"
    mode: Mode = "eval"
    name: str = "fgsm"

    def __post_init__(self) -> None:
        self._pgd()

    def _pgd(self) -> PGD:
        shared = {"start": self.start, "loss": self.loss, "keep": self.keep, "mode": self.mode, "name": self.name}
        return _one_step(self.threat, self.step_size, 1.0, **shared)

    def at(self, threat: ThreatModel) -> Self:
        """The same attack in another threat model; a default step size follows the radius."""
        return replace(self, threat=threat)

    def settings(self) -> dict[str, Any]:
        """Every hyper-parameter, ready for JSON."""
        return self._pgd().settings() | {"kind": "fgsm"}

    def __call__(
        self,
        model: Classifier,
        images: Tensor,
        labels: Tensor,
        streams: Streams | None = None,
        context: Context | None = None,
        *,
        judge: Judge | Classifier | None = None,
    ) -> Tensor:
        """Perturbed images (B, C, H, W) inside the threat model; arguments as in ``PGD``."""
        return self._pgd()(model, images, labels, streams, context, judge=judge)


@dataclass(frozen=True)
class FGSMRS:
    """FGSM from a random start (Wong et al. 2020): uniform in the ball, one step of 1.25 eps, projected.

    Args:
        threat: norm, radius and box.
        step_size: None for 1.25 eps.
        restarts: as in ``PGD``.
        loss: what is climbed.
        keep: as in ``PGD``.
        mode: as in ``PGD``.
        name: in records.

    Raises:
        InputError: as ``PGD``.

    >>> FGSMRS(ThreatModel("linf", 0.1)).settings()["step_size"]
    0.125
    """

    threat: ThreatModel
    _: KW_ONLY
    step_size: float | str | None = None
    restarts: int = 1
    loss: AttackLoss = cross_entropy
    keep: Keep = "first_adversarial"
    mode: Mode = "eval"
    name: str = "fgsm-rs"

    def __post_init__(self) -> None:
        self._pgd()

    def _pgd(self) -> PGD:
        shared = {"restarts": self.restarts, "loss": self.loss, "keep": self.keep, "mode": self.mode, "name": self.name}
        return _one_step(self.threat, self.step_size, FGSM_RS_STEP, start="uniform", **shared)

    def at(self, threat: ThreatModel) -> Self:
        """The same attack in another threat model; a default step size follows the radius."""
        return replace(self, threat=threat)

    def settings(self) -> dict[str, Any]:
        """Every hyper-parameter, ready for JSON."""
        return self._pgd().settings() | {"kind": "fgsm-rs"}

    def __call__(
        self,
        model: Classifier,
        images: Tensor,
        labels: Tensor,
        streams: Streams | None = None,
        context: Context | None = None,
        *,
        judge: Judge | Classifier | None = None,
    ) -> Tensor:
        """Perturbed images (B, C, H, W) inside the threat model; arguments as in ``PGD``."""
        return self._pgd()(model, images, labels, streams, context, judge=judge)
