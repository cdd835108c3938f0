"""Common corruptions as an attack: noise, blur, contrast, brightness, JPEG and pixelation at five severities.

Shapes: B examples; images (B, C, H, W), labels (B,) int64.
"""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from deconfound.attacks.corruption_kinds import KINDS, SEVERITIES, strength
from deconfound.attacks.harness import Hunt
from deconfound.attacks.hunting import HuntingAttack
from deconfound.attacks.points import Points
from deconfound.attacks.settings import described
from deconfound.attacks.whole_box import from_unit, to_unit, whole_box
from deconfound.core.protocols import Classifier
from deconfound.errors import is_whole, require, unknown_name


@dataclass(frozen=True)
class Corruption(HuntingAttack):
    """One kind of common corruption (Hendrycks & Dietterich 2019); an image is broken when it is misclassified then.

    Args:
        threat: only its box counts; the attack's own threat model is the whole box.
        kind: ``gaussian_noise``, ``shot_noise``, ``impulse_noise``, ``gaussian_blur``, ``motion_blur``,
            ``defocus_blur``, ``contrast``, ``brightness``, ``jpeg`` or ``pixelate``.
        severity: 1 to 5; ``worst`` tries all five from the mildest up and keeps the first that breaks the image.
        name: in records, and for the random numbers of an evaluation; by default from kind and severity.

    Raises:
        InputError: no such kind or severity.

    The strengths are the authors' for CIFAR-10-C, Tiny-ImageNet-C or ImageNet-C, whichever has images nearest in size.
    The random numbers of an image are the same at every severity: the same noise, scaled. Departures from the authors'
    code: the result is not rounded to 8 bits, except by JPEG, and the border's pixel goes on where they mirror.

    >>> from deconfound.core.threat import ThreatModel
    >>> Corruption(ThreatModel("linf", "8/255"), kind="contrast", severity=3).settings()["bound"]
    'contrast at severity 3 of 5'
    """

    _: KW_ONLY
    kind: str = "contrast"
    severity: int | Literal["worst"] = "worst"
    name: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "threat", whole_box(self.threat))
        if self.kind not in KINDS:
            raise unknown_name("kind", str(self.kind), KINDS)
        whole = is_whole(self.severity)
        good = self.severity == "worst" or (whole and self.severity in range(1, SEVERITIES + 1))
        require(good, "severity", self.severity, f"a whole number from 1 to {SEVERITIES}, or worst")
        if not self.name:
            object.__setattr__(self, "name", f"{self.kind}-{self.severity}")

    def settings(self) -> dict[str, Any]:
        """Every hyper-parameter, ready for JSON."""
        level = f"any severity of {SEVERITIES}" if self.severity == "worst" else f"severity {self.severity}"
        bound = f"{self.kind} at {level}" + ("" if self.severity == "worst" else f" of {SEVERITIES}")
        return described("corruption", self.threat, corruption=self.kind, severity=self.severity, bound=bound)

    def corrupted(self, points: Points, severity: int) -> Tensor:
        """The images of the points at one severity, in the box, (B, C, H, W)."""
        height, width = points.images.shape[2:]
        pixels, streams = to_unit(points.images, self.threat), points.streams.fold("corruption", self.kind)
        constant = strength(self.kind, severity, height, width)
        with torch.autocast(pixels.device.type, enabled=False):
            return from_unit(KINDS[self.kind](pixels, streams, constant), self.threat)

    def body(self, surrogate: Classifier, hunt: Hunt) -> None:
        """The corruption at its severity, or from the mildest to the worst."""
        chosen = range(1, SEVERITIES + 1) if self.severity == "worst" else (self.severity,)
        for severity in chosen:
            hunt.drop_fallen(self.corrupted(hunt.points, severity), ask_all=True)
            if not len(hunt.points):
                return
