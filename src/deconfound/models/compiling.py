"""A surrogate as one program: compiled, and on a GPU replayed as a CUDA graph.

Shapes: B examples, K classes; images (B, C, H, W), logits (B, K).
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Compiled(nn.Module):
    """A network in eval mode behind ``torch.compile``; on CUDA in the mode that records CUDA graphs.

    Attacks drop points as they fall, so every call may bring another number of images. They are filled up with zeros
    to the next power of two: one program with a free batch size, and on CUDA at most one graph for each power. The
    logits are copied, since a graph writes the next ones to the same place.

    Args:
        network: images -> logits, each image by itself (no BatchNorm in train mode).
        backend: of ``torch.compile``.
    """

    def __init__(self, network: nn.Module, backend: str = "inductor") -> None:
        super().__init__()
        self.network = network
        graphs: dict[str, Any] = {}
        if backend == "inductor" and any(p.is_cuda for p in network.parameters()):
            graphs = {"mode": "reduce-overhead"}
        self._run = torch.compile(network, backend=backend, dynamic=True, **graphs)

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, C, H, W) -> logits (B, K)."""
        count = len(images)
        if images.is_cuda:
            torch.compiler.cudagraph_mark_step_begin()
        rows = F.pad(images, (0, 0) * (images.ndim - 1) + (0, filled(count) - count))
        with warnings.catch_warnings():  # the tracer asks every input for its .grad, also one that is no leaf
            warnings.filterwarnings("ignore", message="The .grad attribute of a Tensor that is not a leaf")
            logits: Tensor = self._run(rows)
        return logits[:count].clone()


def filled(count: int) -> int:
    """The next power of two, at least 2 (a compiler takes a single example for a constant).

    >>> [filled(count) for count in (1, 2, 3, 200, 256)]
    [2, 2, 4, 256, 256]
    """
    return max(2, 1 << (count - 1).bit_length())
