"""What has to be known about a model before it is judged: how many classes, how fast a double, how large a batch.

Shapes: B examples, K classes; images (B, C, H, W), labels (B,) int64.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from deconfound.core.checks import check_images
from deconfound.core.guards import evaluating, randomness_kept
from deconfound.core.protocols import ImageSource, StochasticClassifier
from deconfound.core.streams import Streams
from deconfound.errors import InputError, require
from deconfound.models.ciiv import CiiV
from deconfound.models.ciiv_hastened import hastened
from deconfound.models.fast import ITSELF, FastSurrogate, Precision, fast_surrogate
from deconfound.models.footprint import batch_size_within, memory_bound

# Beyond this no network gains speed, and a batch is what a kill loses.
LARGEST = 256
_LOOKED_AT = 32


@dataclass(frozen=True)
class Prepared:
    """What was found on the first examples.

    Attributes:
        classes: K; 0 where the model does not take the images, which judging refuses with a reason, as it does labels
            that do not fit.
        stochastic: predictions are drawn.
        surrogate: the fast double, None where attacks climb the model itself.
        rung: what attacks climb, in words.
        notes: why not something faster.
        batch_size: images attacked together.
    """

    classes: int
    stochastic: bool
    surrogate: nn.Module | None
    rung: str
    notes: tuple[str, ...]
    batch_size: int


def prepare(
    model: nn.Module,
    images: Tensor | ImageSource,
    labels: Tensor | None,
    index: Tensor | None,
    precision: Precision,
    batch_size: int | None,
    compiler: str | None = None,
) -> Prepared:
    """Look at the first examples and at what the model makes of them.

    Args:
        model: images (B, C, H, W) in [0, 1] -> logits (B, K).
        images, labels, index: as for ``evaluate``.
        precision: of the fast double.
        compiler: a backend of ``torch.compile`` for it.
        batch_size: None for what fits into 2 GiB, on an accelerator into 30 % of its memory, at most 256.

    Raises:
        InputError: images that are not images, an unknown precision.
    """
    sample, truth = _first(model, images, labels, index)
    check_images(sample)
    stochastic = isinstance(model, StochasticClassifier)
    classes = classes_of(model, sample)
    good = truth.dtype == torch.int64 and truth.shape == (len(sample),) and 0 <= int(truth.min()) <= int(truth.max())
    if classes == 0 or not good or int(truth.max()) >= classes:
        return Prepared(classes, stochastic, None, ITSELF, (), batch_size or 1)
    made = FastSurrogate(model, ITSELF)
    if isinstance(model, CiiV):
        made = hastened(model, sample, truth, precision=precision, compiler=compiler)
    elif not stochastic:
        made = fast_surrogate(model, sample, truth, precision=precision, compiler=compiler)
    climbed = None if made.classifier is model else made.classifier
    size = batch_size or _batch_size(climbed or model, sample, stochastic)
    return Prepared(classes, stochastic, climbed, made.rung, made.notes, size)


def _first(
    model: nn.Module, images: Tensor | ImageSource, labels: Tensor | None, index: Tensor | None
) -> tuple[Tensor, Tensor]:
    device = next((t.device for t in (*model.parameters(), *model.buffers())), torch.device("cpu"))
    if isinstance(images, Tensor):
        sample = images[:_LOOKED_AT].to(device)
        given = isinstance(labels, Tensor) and labels.ndim == 1
        truth = labels[:_LOOKED_AT] if given else torch.zeros(len(sample), dtype=torch.int64)  # type: ignore[index]
        return sample, truth.to(device)
    places = torch.arange(len(images)) if index is None else index
    (batch,) = images.batches([places[:_LOOKED_AT]], device)
    return batch.images, batch.labels


def classes_of(model: nn.Module, images: Tensor) -> int:
    """K, or 0 where the model does not make logits (1, K) of the first image."""
    device = next((t.device for t in (*model.parameters(), *model.buffers())), images.device)
    images = images[:1].to(device)
    dtype = next((p.dtype for p in model.parameters() if p.dtype == torch.float64), images.dtype)
    with evaluating(model), torch.no_grad(), randomness_kept(images.device):
        try:
            if isinstance(model, StochasticClassifier):
                logits = model.draw(images[:1].to(dtype), Streams(0, [0]).to(images.device), 1)[0]
            else:
                logits = model(images[:1].to(dtype))
        except InputError:
            raise
        except (RuntimeError, ValueError, TypeError):
            return 0
    good = isinstance(logits, Tensor) and logits.ndim == 2 and logits.shape[1] >= 2
    rule = "logits that are numbers; a training that diverged leaves such weights"
    require(not good or not bool(logits.isnan().all()), "model", "NaN for every class of the first image", rule)
    return int(logits.shape[1]) if good else 0


def _batch_size(model: nn.Module, images: Tensor, stochastic: bool) -> int:
    if stochastic:  # its draws cannot be looked into; each is taken by itself
        return LARGEST // 4
    return min(LARGEST, batch_size_within(model, images, memory_bound(images.device)))
