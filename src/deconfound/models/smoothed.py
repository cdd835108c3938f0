"""Any classifier under Gaussian noise (Cohen et al. 2019): the vote of its draws is the smoothed classifier.

Shapes: B examples, K classes, R draws; images (B, C, H, W), logits (R, B, K).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from deconfound.core.streams import Streams
from deconfound.errors import require

# Rows that pass the network at once where several draws of few images are wanted.
ROWS = 256


class Smoothed(nn.Module):
    """z(x + sigma n), n ~ N(0, I): a ``StochasticClassifier`` whose most frequent prediction is g(x) of the paper.

    The noise of a draw belongs to the example and the number of the draw: it depends neither on the batch nor on how
    many draws are taken. Noisy images are not clipped to [0, 1]; certificates rest on the noise being Gaussian.

    Args:
        inner: images -> logits (B, K), normalisation inside.
        sigma: of the noise, in [0, 1] pixels, above 0.

    Raises:
        InputError: a sigma that is not above 0.
    """

    def __init__(self, inner: nn.Module, sigma: float) -> None:
        super().__init__()
        require(0 < sigma < float("inf"), "sigma", sigma, "a number above 0")
        self.inner, self.sigma = inner, sigma

    def forward(self, images: Tensor, streams: Streams | None = None) -> Tensor:
        """One draw, (B, K); without streams those of ``Streams(0, range(B))``."""
        if streams is None:
            streams = Streams(0, torch.arange(len(images), device=images.device))
        return self.draw(images, streams, 1)[0]

    def draw(self, images: Tensor, streams: Streams, draws: int, first: int = 0) -> Tensor:
        """Draws number ``first`` to ``first + R - 1``, (R, B, K)."""
        together = max(1, ROWS // max(1, len(images)))
        numbers = range(first, first + draws)
        parts = [numbers[place : place + together] for place in range(0, draws, together)]
        return torch.cat([self._together(images, streams, part) for part in parts])

    def _together(self, images: Tensor, streams: Streams, numbers: range) -> Tensor:
        noisy = torch.cat([images + self.sigma * _noise(images, streams.fold("draw", number)) for number in numbers])
        return self.inner(noisy).view(len(numbers), len(images), -1)


def _noise(images: Tensor, streams: Streams) -> Tensor:
    dtype = images.dtype if images.dtype in (torch.float32, torch.float64) else torch.float32
    return streams.normal(tuple(images.shape[1:]), dtype).to(images.dtype)
