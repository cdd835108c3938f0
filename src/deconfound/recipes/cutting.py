"""A run's network cut in two, with features as vectors whatever they are at the cut.

Shapes: B images, D = all numbers of the features of one.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from deconfound.core.guards import evaluating
from deconfound.core.protocols import FeatureSplit, StochasticClassifier
from deconfound.errors import InputError, require
from deconfound.models import split_model
from deconfound.recipes.loading import Loaded


class FlatSplit(nn.Module):
    """``head(features(x)) == model(x)`` with features (B, D); maps and tokens are flattened and put back.

    Args:
        parts: a ``FeatureSplit``.
        like: features of one image, whose shape they all have.
    """

    def __init__(self, parts: nn.Module, like: Tensor) -> None:
        super().__init__()
        self.parts, self.shape = parts, tuple(like.shape[1:])

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, C, H, W) -> logits (B, K)."""
        return cast(Tensor, self.parts(images))

    def features(self, images: Tensor) -> Tensor:
        """(B, D)."""
        return cast(FeatureSplit, self.parts).features(images).flatten(1)

    def head(self, features: Tensor) -> Tensor:
        """(B, D) -> logits (B, K)."""
        return cast(FeatureSplit, self.parts).head(features.view(len(features), *self.shape))


def cut_run(run: str, loaded: Loaded, layer: str | None) -> FlatSplit | None:
    """The network cut behind a layer, or where it cuts itself; None for a random network, which has no one feature.

    Raises:
        InputError: a layer that does not exist or at which the network cannot be cut.
    """
    model = loaded.model
    if isinstance(model, StochasticClassifier):
        require(layer is None, "layer", layer, f"none: {run} looks at random views, which have no single feature")
        return None
    if loaded.shape is None:
        raise InputError("run", run, "a run whose file says the shape of its images")
    device = next((tensor.device for tensor in model.state_dict().values()), torch.device("cpu"))
    probe = torch.linspace(0, 1, 2 * loaded.shape[0] * loaded.shape[1] * loaded.shape[2], device=device)
    probe = probe.view(2, *loaded.shape)
    parts = split_model(model, layer, probe=probe).eval()
    with evaluating(parts), torch.no_grad():
        return FlatSplit(parts, parts.features(probe)).eval()
