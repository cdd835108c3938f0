"""Images as small PNG files in base64, for records.

Shapes: image (C, H, W) in [0, 1].
"""

from __future__ import annotations

import base64
import io

import torch
from PIL import Image
from torch import Tensor

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
