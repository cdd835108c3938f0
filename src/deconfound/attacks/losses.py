"""Losses that attacks climb: one number per example, higher is more adversarial; each calls the model once.

Shapes: B examples, K classes; images (B, C, H, W), labels (B,) int64, logits (B, K), results (B,).
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import torch
from torch import Tensor

from deconfound.core.protocols import AttackLoss, Classifier
from deconfound.core.types import Context
from deconfound.errors import InputError, unknown_name
from deconfound.functional import losses


def _logits(model: Classifier, images: Tensor) -> Tensor:
    logits = model(images)
    return logits.float() if logits.dtype in (torch.bfloat16, torch.float16) else logits


def cross_entropy(model: Classifier, images: Tensor, labels: Tensor, context: Context) -> Tensor:
    """-log softmax(z(x))_y; its gradient vanishes in float32 where the true class leads by about 100."""
    return losses.cross_entropy(_logits(model, images), labels)


def margin(model: Classifier, images: Tensor, labels: Tensor, context: Context) -> Tensor:
    """max_{k != y} z_k(x) - z_y(x) (Carlini & Wagner 2017), positive where the prediction is wrong; never saturates."""
    return losses.margin(_logits(model, images), labels)


def kl_to_reference(model: Classifier, images: Tensor, labels: Tensor, context: Context) -> Tensor:
    """KL(softmax(r) || softmax(z(x))) with r = ``context["reference_logits"]`` (B, K) (Zhang et al. 2019, eq. 5).

    Raises:
        InputError: the context holds no reference logits.
    """
    if "reference_logits" not in context:
        raise InputError("context", sorted(context), "'reference_logits' (B, K), the clean logits of the same images")
    return losses.kl_divergence(context["reference_logits"], _logits(model, images))


LOSSES: Mapping[str, AttackLoss] = MappingProxyType(
    {"cross_entropy": cross_entropy, "margin": margin, "kl_to_reference": kl_to_reference}
)


def named(name: str) -> AttackLoss:
    """The registered loss of that name.

    Raises:
        InputError: no such loss.
    """
    if name not in LOSSES:
        raise unknown_name("loss", name, LOSSES)
    return LOSSES[name]


def name_of(loss: AttackLoss) -> str:
    """How a loss is called in records: the name of the function, or of the type of a callable object.

    >>> name_of(margin)
    'margin'
    """
    return str(getattr(loss, "__name__", type(loss).__name__))
