"""What attacks beyond a norm ball share: they may reach the whole box, and they work on pixels in [0, 1].

Shapes: B examples; images (B, C, H, W).
"""

from __future__ import annotations

from torch import Tensor

from deconfound.attacks.settings import check_threat
from deconfound.core.threat import ThreatModel


def whole_box(threat: ThreatModel) -> ThreatModel:
    """The threat model that holds every image in the box of this one: L-infinity with the width of the box as radius.

    Raises:
        InputError: not a threat model.

    >>> whole_box(ThreatModel("l2", 0.5, (-1, 1)))
    ThreatModel(norm='linf', eps=2.0, box=(-1.0, 1.0))
    """
    check_threat(threat)
    low, high = threat.box
    return ThreatModel("linf", high - low, threat.box)


def to_unit(images: Tensor, threat: ThreatModel) -> Tensor:
    """Images of the box as pixels in [0, 1], exactly as they are where that is the box."""
    low, high = threat.box
    return images if threat.box == (0.0, 1.0) else ((images - low) / (high - low)).clamp(0, 1)


def from_unit(pixels: Tensor, threat: ThreatModel) -> Tensor:
    """Pixels, clipped to [0, 1], as images of the box."""
    low, high = threat.box
    pixels = pixels.clamp(0, 1)
    return pixels if threat.box == (0.0, 1.0) else (low + (high - low) * pixels).clamp(low, high)
