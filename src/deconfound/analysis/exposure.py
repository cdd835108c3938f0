"""Instrument exposure of a network that looks several times at an image (CiiV).

Shapes: N images, B of a batch, V views, D features, K classes; features (V, B, D), logits (V, B, K), exposure (V, B).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from deconfound.analysis.means import mean_of
from deconfound.analysis.neighbours import queries
from deconfound.analysis.observing import device_of, quiet
from deconfound.analysis.readers import accuracy
from deconfound.core.checks import check_images
from deconfound.core.origin import Origin
from deconfound.core.pictures import png
from deconfound.core.protocols import ImageSource, Monitor, ViewedClassifier
from deconfound.core.streams import Streams
from deconfound.core.types import Batch
from deconfound.errors import require_whole
from deconfound.functional.consistency import pooled
from deconfound.functional.predictions import predicted
from deconfound.records import Centre, ExposureRecord, Looks, View

SHOWN = 3
SIDE = 48
"""Views are noise, which no picture format makes small: larger ones are shrunk to this side."""


@dataclass(frozen=True, kw_only=True)
class ExposureParts:
    """What the analysis needs of a run.

    Attributes:
        model: looks several times.
        sample: (images (B, C, H, W), streams) -> views (B, V, C', H, W), the very ones that ``model`` looks at.
        policy: how centres are chosen.
        consistency: weight of the consistency loss at the end of training.
    """

    model: ViewedClassifier
    sample: Callable[[Tensor, Streams], Tensor]
    policy: str
    consistency: float


@dataclass(frozen=True)
class _Seen:
    """Labels (N,), logits (V, N, K), exposure (V, N), spreads (N,)."""

    labels: Tensor
    logits: Tensor
    exposure: Tensor
    spread: Tensor
    raw: Tensor


def relative_spread(features: Tensor) -> Tensor:
    """sqrt(mean_l |r_l - rbar|^2) / |rbar| of r (V, B, D), (B,); NaN where the mean is 0 or there is one view.

    >>> relative_spread(torch.tensor([[[3.0]], [[1.0]]])).tolist()
    [0.5]
    """
    work = features.double()
    centre = work.mean(dim=0)
    found = (work - centre).square().sum(dim=2).mean(dim=0).sqrt() / centre.norm(dim=1)
    bad = ~torch.isfinite(found) | (len(features) < 2)
    return found.masked_fill(bad, math.nan)


def analyse_exposure(
    parts: ExposureParts,
    source: ImageSource,
    index: Tensor,
    origin: Origin,
    *,
    seed: int = 0,
    batch_size: int = 256,
    monitor: Monitor | None = None,
) -> ExposureRecord:
    """Views, exposures, what each look alone predicts, and the spread of features per exposure; one draw an image.

    Args:
        parts: the network and its sampler.
        source: N images or more.
        index: the places in the source, (N,) int64.
        origin: of the model and the data.
        seed: of the views.
        batch_size: images at a time.
        monitor: shows progress.

    Raises:
        InputError: bad input, such as images outside [0, 1].

    Source: Tang et al. 2021 (arXiv 2106.09534), section 3; the spread is ours.
    """
    require_whole("batch_size", batch_size)
    begun = time.perf_counter()
    device, found = device_of(parts.model), []
    if monitor is not None:
        monitor.start("views", len(index))
    with quiet(device, parts.model), torch.no_grad():
        for batch in source.batches(index.split(batch_size), device):
            found.append(_batch(parts, batch, seed))
            if monitor is not None:
                monitor.update(sum(len(one.labels) for one in found), {})
        seen = _joined(found)
        looks = _looks(parts, source, index, seen, seed, device)
    if monitor is not None:
        monitor.finish()
    return ExposureRecord(
        **origin.fields(),
        n=len(index),
        seed=seed,
        seconds=time.perf_counter() - begun,
        policy=parts.policy,
        consistency=parts.consistency,
        together=accuracy(pooled(seen.logits, seen.exposure), seen.labels),
        centres=tuple(
            Centre(exposure=float(z.mean()), accuracy=accuracy(logits, seen.labels))
            for z, logits in zip(seen.exposure, seen.logits, strict=True)
        ),
        spread=mean_of(seen.spread[torch.isfinite(seen.spread)]),
        raw_spread=mean_of(seen.raw[torch.isfinite(seen.raw)]),
        looks=looks,
    )


def _streams(seed: int, index: Tensor) -> Streams:
    return Streams(seed, index).fold("exposure")


def _batch(parts: ExposureParts, batch: Batch, seed: int) -> _Seen:
    check_images(batch.images)
    features, logits, exposure = parts.model.views(batch.images, _streams(seed, batch.index))
    spread, raw = relative_spread(features / exposure[..., None]), relative_spread(features)
    return _Seen(batch.labels.cpu(), logits.cpu(), exposure.cpu(), spread.cpu(), raw.cpu())


def _joined(found: list[_Seen]) -> _Seen:
    return _Seen(
        torch.cat([one.labels for one in found]),
        torch.cat([one.logits for one in found], dim=1),
        torch.cat([one.exposure for one in found], dim=1),
        torch.cat([one.spread for one in found]),
        torch.cat([one.raw for one in found]),
    )


def _looks(
    parts: ExposureParts, source: ImageSource, index: Tensor, seen: _Seen, seed: int, device: torch.device
) -> tuple[Looks, ...]:
    places = queries(seen.labels, SHOWN)
    (batch,) = source.batches([index[places]], device)
    views = parts.sample(batch.images, _streams(seed, batch.index))
    whole = predicted(pooled(seen.logits, seen.exposure))
    return tuple(
        Looks(
            index=int(index[place]),
            label=int(seen.labels[place]),
            png=png(batch.images[row]),
            prediction=int(whole[place]),
            views=_views(views[row], seen.exposure[:, place], predicted(seen.logits[:, place])),
        )
        for row, place in enumerate(places)
    )


def _views(pictures: Tensor, exposure: Tensor, classes: Tensor) -> tuple[View, ...]:
    shrunk = F.adaptive_avg_pool2d(pictures, _fitting(pictures.shape[-2:]))
    return tuple(
        View(png=png(_within(picture)), exposure=float(z), prediction=int(found))
        for picture, z, found in zip(shrunk, exposure, classes, strict=True)
    )


def _fitting(size: torch.Size) -> tuple[int, int]:
    scale = min(1.0, SIDE / max(size))
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _within(picture: Tensor) -> Tensor:
    """As it is within [0, 1], else stretched to it: the first version's views have their mean removed."""
    low, high = picture.aminmax()
    if low >= 0 and high <= 1:
        return picture
    return (picture - low) / (high - low).clamp_min(1e-12)


__all__ = ["ExposureParts", "analyse_exposure", "relative_spread"]
