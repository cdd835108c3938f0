"""Features and logits of natural images and of their adversarial versions.

Shapes: N images, B of a batch, K classes, d features; images (B, C, H, W), features (N, d), logits (N, K), labels (N,).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from deconfound.core.checks import check_images, check_labels, check_logits
from deconfound.core.guards import evaluating, frozen, full_float32, randomness_kept
from deconfound.core.protocols import Attack, ImageSource, Monitor
from deconfound.core.streams import Streams
from deconfound.core.types import Batch
from deconfound.errors import require, require_whole


class SplitClassifier(Protocol):
    """A classifier that is cut before its last layer."""

    def __call__(self, images: Tensor, /) -> Tensor:
        """Images (B, C, H, W) -> logits (B, K)."""
        ...

    def features(self, images: Tensor) -> Tensor:
        """Images (B, C, H, W) -> (B, d)."""
        ...

    def head(self, features: Tensor) -> Tensor:
        """(B, d) -> logits (B, K)."""
        ...


@dataclass(frozen=True)
class Seen:
    """Features (N, d) and logits (N, K) of some images."""

    features: Tensor
    logits: Tensor


@dataclass(frozen=True)
class Observed:
    """The images of an analysis in their order: labels (N,), and what the network made of both versions."""

    labels: Tensor
    natural: Seen
    adversarial: Seen


def observe(
    model: SplitClassifier,
    source: ImageSource,
    index: Tensor,
    attack: Attack,
    *,
    seed: int,
    batch_size: int,
    device: torch.device,
    monitor: Monitor | None = None,
) -> Observed:
    """Attack some images and keep what the network makes of them before and after.

    The random numbers of an image depend on the seed and on its place in the data set alone, so neither the order nor
    the batch size matters beyond the rounding of kernels at different shapes. The network is in eval mode meanwhile.

    Args:
        model: cut before its last layer.
        source: N images or more.
        index: the places in the source, (N,) int64.
        attack: makes the adversarial versions.
        seed: of all random numbers.
        batch_size: images at a time.
        device: where the network is.
        monitor: shows progress.

    Raises:
        InputError: images outside [0, 1], labels that do not fit, features that are no vectors.
    """
    require_whole("batch_size", batch_size)
    parts: list[Observed] = []
    done = 0
    if monitor is not None:
        monitor.start(attack.name, len(index))
    with quiet(device, model):
        for batch in source.batches(index.split(batch_size), device):
            parts.append(_batch(model, batch, attack, seed))
            done += len(batch.labels)
            if monitor is not None:
                monitor.update(done, {})
    if monitor is not None:
        monitor.finish()
    return Observed(
        torch.cat([part.labels for part in parts]),
        _joined([part.natural for part in parts]),
        _joined([part.adversarial for part in parts]),
    )


@contextmanager
def quiet(device: torch.device, *modules: object) -> Iterator[None]:
    """The surroundings of an analysis: eval mode, frozen, no TF32, random state kept; all of it comes back."""
    with evaluating(*modules), frozen(*modules), full_float32(), randomness_kept(device):
        yield


def _batch(model: SplitClassifier, batch: Batch, attack: Attack, seed: int) -> Observed:
    check_images(batch.images)
    natural = _seen(model, batch.images)
    check_labels(batch.labels, check_logits(natural.logits, len(batch.labels)), len(batch.labels))
    streams = Streams(seed, batch.index).fold("analysis", attack.name)
    adversarial = attack(model, batch.images, batch.labels, streams)
    return Observed(batch.labels.cpu(), natural, _seen(model, adversarial))


def _seen(model: SplitClassifier, images: Tensor) -> Seen:
    with torch.no_grad():
        features = model.features(images)
        require(features.ndim == 2, "features", tuple(features.shape), "vectors (B, d), the last layer's input")
        return Seen(features.cpu(), model.head(features).cpu())


def _joined(parts: list[Seen]) -> Seen:
    return Seen(torch.cat([part.features for part in parts]), torch.cat([part.logits for part in parts]))


def device_of(*modules: object) -> torch.device:
    """Where the first tensor of the modules lies; the processor where there is none."""
    tensors = (t for m in modules if isinstance(m, nn.Module) for t in m.state_dict().values())
    return next((tensor.device for tensor in tensors), torch.device("cpu"))
