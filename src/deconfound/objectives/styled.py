"""What CausalAdv's attacks climb: a classifier with its style logits, and a loss of both.

Shapes: B examples, K classes, D features; images (B, C, H, W), features, styles (B, D), labels (B,) int64.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, cast

import torch
from torch import Tensor, nn

from deconfound.core.guards import evaluating, frozen
from deconfound.core.protocols import FeatureSplit, StylePredictor
from deconfound.core.types import Context
from deconfound.errors import InputError
from deconfound.functional.losses import cross_entropy, kl_divergence, soft_cross_entropy

_HINT = (
    "name the layer that gives them (in a recipe: --set model_options.layer=NAME; in Python: "
    "models.split_model(model, layer=NAME))"
)


def linear_layer(model: nn.Module, last: nn.Module | None = None) -> nn.Linear:
    """The linear layer that is the head of a split model: the one for which head(f) = W f (+ b), on a ramp.

    Args:
        model: with methods ``features`` and ``head``.
        last: the layer to check; by default the model's linear layers are tried, the last one first.

    Raises:
        InputError: the model has no split, or none whose head is one linear layer.
    """
    layers = [last] if last is not None else [module for module in model.modules() if isinstance(module, nn.Linear)]
    if all(callable(getattr(model, name, None)) for name in ("features", "head")):
        for layer in reversed(layers):
            if isinstance(layer, nn.Linear) and _is_head(cast(FeatureSplit, model), layer):
                return layer
    inner = getattr(model, "model", model)
    rule = f"a network whose logits come from features (B, D) by one linear layer; where it has such features, {_HINT}"
    raise InputError("model", type(inner).__name__, rule)


def _is_head(model: FeatureSplit, layer: nn.Linear) -> bool:
    weight = layer.weight
    ramp = torch.linspace(-1, 1, 2 * layer.in_features, dtype=weight.dtype, device=weight.device).view(2, -1)
    with evaluating(model), torch.no_grad():
        try:
            logits = model.head(ramp)
        except Exception:  # a foreign head that takes something else raises what it likes
            return False
        expected = layer(ramp)
        return logits.shape == expected.shape and torch.allclose(logits, expected, rtol=1e-4, atol=1e-5)


def checked_features(features: Tensor, last: nn.Linear) -> Tensor:
    """Features, if they are what the linear layer takes.

    Raises:
        InputError: maps or tokens, or vectors of another length.
    """
    if features.ndim != 2 or features.shape[1] != last.in_features:
        rule = f"features of shape (B, {last.in_features}), which its last linear layer takes; {_HINT}"
        raise InputError("model", f"features of shape {tuple(features.shape)}", rule)
    return features


class Styled(nn.Module):
    """A classifier and its style branch at one basis: a forward gives z(x), ``style_logits`` V phi(s) + c of that x.

    Both are ordinary submodules, so what guards a surrogate guards them.
    """

    def __init__(self, model: nn.Module, style: nn.Module, matrix: Tensor) -> None:
        super().__init__()
        self.model, self.style = model, style
        self.matrix = matrix
        self._features: Tensor | None = None

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, C, H, W) -> logits (B, K)."""
        split: FeatureSplit = self.model  # type: ignore[assignment]
        self._features = split.features(images)
        return split.head(self._features)

    def style_logits(self) -> Tensor:
        """The style logits of the images of the last forward, without the marginalisation, (B, K); once for each."""
        branch: StylePredictor = self.style  # type: ignore[assignment]
        features, self._features = self._features, None
        assert features is not None, "a forward comes first"
        return branch.plain_logits(branch.style(features, self.matrix))


def style_context(styled: Styled, images: Tensor, labels: Tensor, ratio: float) -> Context:
    """What the loss below knows of the clean images: networks in eval mode, no gradient.

    ``reference_logits`` z(x), ``style_correction`` the marginalisation's part for each label and ``style_target``
    z^s(x), all (B, K).
    """
    branch: StylePredictor = styled.style  # type: ignore[assignment]
    with evaluating(styled), frozen(styled), torch.no_grad():
        reference = styled(images)
        correction = branch.correction(labels, ratio)
        target = styled.style_logits() + correction
    return {"reference_logits": reference, "style_correction": correction, "style_target": target}


@dataclass(frozen=True)
class StyleLoss:
    """Attack loss content_weight * L(z) + style_weight * softCE(z^s(x~) against softmax z^s(x)), per example (B,).

    L is CE(z(x~), y), or KL(p(x) || p(x~)). It climbs a ``Styled`` classifier and reads ``style_context``.

    Args:
        content: ``cross_entropy`` or ``kl``.
        content_weight: of L, at least 0.
        style_weight: of the style term, at least 0.
    """

    content: Literal["cross_entropy", "kl"] = "cross_entropy"
    content_weight: float = 1.0
    style_weight: float = 1.0

    @property
    def __name__(self) -> str:
        """As records call it."""
        return f"{self.content_weight:g}*{self.content}+{self.style_weight:g}*style"

    def __call__(self, model: Styled, images: Tensor, labels: Tensor, context: Context) -> Tensor:
        """One number per example.

        Raises:
            InputError: the context lacks what the loss compares with.
        """
        for name in ("reference_logits", "style_correction", "style_target"):
            if name not in context:
                raise InputError("context", sorted(context), f"{name!r} (B, K), as style_context makes it")
        logits = model(images)
        if self.content == "kl":
            content = kl_divergence(context["reference_logits"], logits)
        else:
            content = cross_entropy(logits, labels)
        style = model.style_logits() + context["style_correction"]
        return self.content_weight * content + self.style_weight * soft_cross_entropy(style, context["style_target"])
