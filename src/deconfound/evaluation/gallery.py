"""Pictures of broken examples: clean image, perturbation and adversarial image, as PNG in base64.

Shapes: image (C, H, W) in [0, 1].
"""

from __future__ import annotations

import base64
import io

import torch
from PIL import Image
from torch import Tensor

from deconfound.records import Picture

# A perturbation of 8/255 is invisible; ten times as large around grey it is seen, and 0.05 still fits the range.
AMPLIFICATION = 10.0
LARGEST_SIDE = 96


def png(image: Tensor) -> str:
    """A PNG in base64; larger images are shrunk to 96 pixels, other than 1 or 3 channels are averaged to grey."""
    if image.shape[0] not in (1, 3):
        image = image.mean(dim=0, keepdim=True)
    levels = image.detach().float().clamp(0, 1).mul(255).round().to(torch.uint8).cpu()
    pixels = levels.permute(1, 2, 0).contiguous().numpy() if image.shape[0] == 3 else levels[0].contiguous().numpy()
    picture = Image.fromarray(pixels)
    longest = max(picture.size)
    if longest > LARGEST_SIDE:
        size = [max(1, round(side * LARGEST_SIDE / longest)) for side in picture.size]
        picture = picture.resize((size[0], size[1]), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode("ascii")


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
