"""Pictures of broken examples: clean image, perturbation and adversarial image.

Shapes: image (C, H, W) in [0, 1].
"""

from __future__ import annotations

from torch import Tensor

from deconfound.core.pictures import png
from deconfound.records import Picture

# A perturbation of 8/255 is invisible; ten times as large around grey it is seen, and 0.05 still fits the range.
AMPLIFICATION = 10.0


def picture(
    clean: Tensor,
    adversarial: Tensor,
    *,
    index: int,
    label: int,
    prediction: int,
    found: int,
    attack: str,
    distance: float,
) -> Picture:
    """One example of the gallery; ``found`` is the prediction on the adversarial image."""
    return Picture(
        index=index,
        label=label,
        prediction=prediction,
        adversarial=found,
        attack=attack,
        distance=distance,
        clean_png=png(clean),
        perturbation_png=png(0.5 + AMPLIFICATION * (adversarial - clean)),
        adversarial_png=png(adversarial),
    )
