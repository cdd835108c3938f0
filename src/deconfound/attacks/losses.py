"""Losses that attacks climb: one number per example, higher is more adversarial; each calls the model once.

Shapes: B examples, K classes; images (B, C, H, W), labels (B,) int64, logits (B, K), results (B,).
"""

from __future__ import annotations

import torch
from torch import Tensor

from deconfound.core.protocols import AttackLoss, Classifier
from deconfound.core.types import Context
from deconfound.errors import InputError
from deconfound.functional import losses

DLR_CLASSES, TARGETED_DLR_CLASSES = 3, 4
"""The losses need so many classes; below, the margin is climbed."""
# AutoAttack adds it to both denominators, for logits that are all equal.
DLR_GUARD = 1e-12
CONFIDENCE = 50.0


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


def closeness_to_target(model: Classifier, images: Tensor, labels: Tensor, context: Context) -> Tensor:
    """-KL(softmax(z(x)) || softmax(t)) with t = ``context["target_logits"]`` (B, K): 0 where both predict alike.

    Climbing it is causal inversion (Kim et al. 2023), see ``attacks.causal_inversion``.

    Raises:
        InputError: the context holds no target logits.
    """
    if "target_logits" not in context:
        raise InputError("context", sorted(context), "'target_logits' (B, K), what the images should be seen as")
    return -losses.kl_divergence(_logits(model, images), context["target_logits"])


def confident_margin(model: Classifier, images: Tensor, labels: Tensor, context: Context) -> Tensor:
    """min(max_{k != y} z_k - z_y, 50): the margin with Carlini & Wagner's confidence of 50 (Madry et al. 2018)."""
    return margin(model, images, labels, context).clamp_max(CONFIDENCE)


def dlr(model: Classifier, images: Tensor, labels: Tensor, context: Context) -> Tensor:
    """Difference of logits ratio, (max_{k != y} z_k - z_y) / (z_(1) - z_(3)) (Croce & Hein 2020, eq. 6).

    z_(i) is the i-th largest logit. With fewer than 3 classes there is no third one: the margin takes its place.
    """
    logits = _logits(model, images)
    gap = losses.margin(logits, labels)
    if logits.shape[1] < DLR_CLASSES:
        return gap
    largest = logits.topk(3, dim=1).values
    return gap / (largest[:, 0] - largest[:, 2] + DLR_GUARD)


def targeted_cross_entropy(model: Classifier, images: Tensor, labels: Tensor, context: Context) -> Tensor:
    """Log softmax(z(x))_t for the class t = ``context["target"]``."""
    return -losses.cross_entropy(_logits(model, images), _target(context))


def targeted_margin(model: Classifier, images: Tensor, labels: Tensor, context: Context) -> Tensor:
    """z_t(x) - z_y(x) for the class t = ``context["target"]``, positive where the target beats the label."""
    return _lead(_logits(model, images), labels, context)


def targeted_dlr(model: Classifier, images: Tensor, labels: Tensor, context: Context) -> Tensor:
    """(z_t - z_y) / (z_(1) - (z_(3) + z_(4)) / 2), t = ``context["target"]`` (Croce & Hein 2020, eq. 7).

    With fewer than 4 classes there is no fourth largest logit: z_t - z_y takes its place.
    """
    logits = _logits(model, images)
    lead = _lead(logits, labels, context)
    if logits.shape[1] < TARGETED_DLR_CLASSES:
        return lead
    largest = logits.topk(4, dim=1).values
    return lead / (largest[:, 0] - 0.5 * (largest[:, 2] + largest[:, 3]) + DLR_GUARD)


def _target(context: Context) -> Tensor:
    if "target" not in context:
        raise InputError("context", sorted(context), "'target' (B,), the class to reach for each image")
    return context["target"]


def _lead(logits: Tensor, labels: Tensor, context: Context) -> Tensor:
    pair = logits.gather(1, torch.stack([_target(context), labels], dim=1))
    return pair[:, 0] - pair[:, 1]


def name_of(loss: AttackLoss) -> str:
    """How a loss is called in records: the name of the function, or of the type of a callable object.

    >>> name_of(margin)
    'margin'
    """
    return str(getattr(loss, "__name__", type(loss).__name__))
