"""The cut at a feature map, where CAFE looks; not the cut before the last linear layer, where CausalAdv does.

Shapes: B examples, C channels, H height, W width, K classes; features maps (B, c, h, w), tokens (B, T, D) or vectors
(B, D); images (B, C, H, W) in [0, 1].
"""

from __future__ import annotations

from copy import deepcopy
from typing import cast

import torch
from torch import Tensor, nn

from deconfound.core.guards import evaluating
from deconfound.core.protocols import FeatureSplit
from deconfound.models.ciiv import CiiV
from deconfound.models.ciiv_surrogates import ExpectedSurrogate
from deconfound.models.network import Network
from deconfound.models.split import TIMM_CUT, Split, split_model


def feature_cut(model: nn.Module, layer: str | None = None, probe: Tensor | None = None) -> nn.Module:
    """A classifier as ``head(features(x))``, cut at a feature map; it shares the model's parameters.

    Without ``layer``: our networks at ``last_map`` (VGG after its last BatchNorm, before the ReLU; ResNets behind the
    last stage; Wide-ResNets and PreAct-ResNets behind the last BatchNorm and ReLU; the small ones behind the last
    convolution's ReLU; the ViT at its normed tokens), timm networks at ``forward_features``, CiiV at the features of
    its expected views, as tokens (B, V, D) without noise. Everything else as ``split_model`` does, before the last
    linear layer.

    Args:
        model: images -> logits (B, K).
        layer: a name as in ``model.named_modules()``.
        probe: images (b, C, H, W) on which ``head(features(x)) == model(x)`` is checked, in eval mode.

    Raises:
        InputError: a layer that does not exist (lists those that do) or is no clean cut; no split at all.
    """
    if isinstance(model, CiiV) and layer is None:
        return ExpectedSurrogate(model)
    chosen = layer or _usual(model.model if isinstance(model, Split) else model)
    if isinstance(model, Split) and chosen is None:
        return model
    return split_model(model, chosen, probe=probe)


def _usual(model: nn.Module) -> str | None:
    if isinstance(model, Network):
        return model.last_map
    timm = all(callable(getattr(type(model), name, None)) for name in ("forward_features", "forward_head"))
    return TIMM_CUT if timm else None


def probed_shape(cut: nn.Module, images: Tensor) -> tuple[int, ...]:
    """The shape of one example's features, without the batch: (c, h, w), (T, D) or (D,).

    Args:
        cut: with ``features``, as ``feature_cut`` makes it.
        images: one image or more, (b, C, H, W); blank ones will do.
    """
    with evaluating(cut), torch.no_grad():
        return tuple(cast(FeatureSplit, cut).features(images[:1]).shape[1:])


class CausalFeatureMap(nn.Module):
    """A classifier cut at a feature map and the hypothesis model h of Z = f(x~) - f(x); see ``core.CausalFeatures``.

    Args:
        network: the classifier, shared and not copied.
        hypothesis: h, a feature of the cut to one of the same shape.
        layer: where to cut; None for the network's usual place.
        probe: images (b, C, H, W) on which the cut is checked.

    Raises:
        InputError: as ``feature_cut``.
    """

    def __init__(
        self, network: nn.Module, hypothesis: nn.Module, layer: str | None = None, probe: Tensor | None = None
    ) -> None:
        super().__init__()
        self.layer = layer
        self.cut = feature_cut(network, layer, probe)
        self.hypothesis = hypothesis
        # Outside the module tree: the cut holds the network already, and every weight is stored once.
        self._network = (network,)

    def __deepcopy__(self, memo: dict[int, object]) -> CausalFeatureMap:
        """A copy shares nothing, the network included."""
        twin = CausalFeatureMap(deepcopy(self.network, memo), deepcopy(self.hypothesis, memo), self.layer)
        twin.training = self.training
        return twin

    @property
    def network(self) -> nn.Module:
        """The classifier itself."""
        return self._network[0]

    def forward(self, images: Tensor) -> Tensor:
        """Images -> logits (B, K), the classifier's own."""
        logits: Tensor = self.network(images)
        return logits

    def features(self, images: Tensor) -> Tensor:
        """Images -> features at the cut."""
        return cast(FeatureSplit, self.cut).features(images)

    def head(self, features: Tensor) -> Tensor:
        """Features at the cut -> logits (B, K)."""
        return cast(FeatureSplit, self.cut).head(features)

    def causal(self, natural: Tensor, adversarial: Tensor) -> Tensor:
        """The adversarial causal prediction, logits (B, K) of f(x) + h(f(x~) - f(x)).

        Args:
            natural: features of the clean images.
            adversarial: those of the adversarial ones.
        """
        return self.head(natural + self.hypothesis(adversarial - natural))

    def around(self, network: nn.Module) -> CausalFeatureMap:
        """The same h, shared, in another network of the same architecture, cut at the same place."""
        return CausalFeatureMap(network, self.hypothesis, self.layer)
