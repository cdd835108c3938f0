"""Certified accuracy of a classifier under Gaussian noise (Cohen et al. 2019, CERTIFY).

Shapes: B examples, K classes; images (B, C, H, W) in [0, 1], labels (B,) int64, votes (B, K).
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any

import torch
from torch import Tensor

from deconfound.core.guards import evaluating, full_float32
from deconfound.core.origin import Origin
from deconfound.core.protocols import ImageSource, Journal, Monitor, NoisyClassifier
from deconfound.core.streams import Streams
from deconfound.errors import require, require_seed, require_whole
from deconfound.evaluation.examples import index_digest
from deconfound.evaluation.ledger import check_same
from deconfound.evaluation.majority import votes_of
from deconfound.functional.smoothing import certificates, certified_radius
from deconfound.functional.statistics import clopper_pearson_lower, wilson_interval
from deconfound.records import CertificationRecord, CertifiedPoint, CertifiedShare

# Draws between two signs of life, and between two votes kept: (R, B, K) logits stay small.
TOGETHER = 100
RADII = 11


@dataclass(frozen=True)
class Certification:
    """How to certify.

    Args:
        selection_draws: n0, which choose the class.
        draws: n, which bound its share; no radius beyond sigma Phi^-1(alpha^(1/n)) can come out, 3.8 sigma by default.
        alpha: the chance that a certificate is wrong, in (0, 1), for each example.
        seed: of the noise.
        batch_size: images at a time; it changes nothing beyond rounding.
        radii: at which the certified accuracy is stated; None for 0, sigma/2, ..., 5 sigma.

    Raises:
        InputError: a setting out of range.
    """

    _: KW_ONLY
    selection_draws: int = 100
    draws: int = 100_000
    alpha: float = 0.001
    seed: int = 0
    batch_size: int = 256
    radii: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        for field in ("selection_draws", "draws", "batch_size"):
            require_whole(field, getattr(self, field), option="--n0" if field == "selection_draws" else "")
        require(0 < self.alpha < 1, "alpha", self.alpha, "a level between 0 and 1")
        require_seed("seed", self.seed)
        good = self.radii is None or (all(0 <= r < float("inf") for r in self.radii) and len(self.radii) > 0)
        require(good, "radii", self.radii, "numbers of at least 0")

    def votes(self, model: NoisyClassifier, images: Tensor, streams: Streams, draws: int) -> Tensor:
        """How many of so many draws predict each class, (B, K) float64."""
        found: Tensor | None = None
        for first in range(0, draws, TOGETHER):
            logits = model.draw(images, streams, min(TOGETHER, draws - first), first=first)
            more = votes_of(logits)[0]
            found = more if found is None else found + more
        assert found is not None  # at least one draw
        return found


def certify(
    model: NoisyClassifier,
    source: ImageSource,
    origin: Origin,
    settings: Certification,
    *,
    index: Tensor | None = None,
    device: torch.device | str = "cpu",
    journal: Journal | None = None,
    monitor: Monitor | None = None,
) -> CertificationRecord:
    """Certify the vote of a classifier under noise on test images.

    Args:
        model: z(x + sigma n) by number of draw, with ``sigma``, such as ``models.Smoothed``.
        source: the images.
        origin: what the record says of model and data.
        settings: draws, level, seed.
        index: which images; all by default.
        device: where the images go.
        journal: keeps certificates of finished batches, so that the same call continues.
        monitor: shows progress.

    Raises:
        InputError: settings that do not fit, a journal of another call.
    """
    begun, places = time.monotonic(), torch.arange(len(source)) if index is None else index
    points = _known(journal, _call(model, origin, settings, places))
    if monitor is not None:
        monitor.start("certifying", len(places), len(points))
    left = places[len(points) :]
    with evaluating(model), torch.no_grad(), full_float32():
        for batch in source.batches(left.split(settings.batch_size), device):
            streams = Streams(settings.seed, batch.index).to(batch.images.device)
            selecting = settings.votes(model, batch.images, streams.fold("select"), settings.selection_draws)
            estimating = settings.votes(model, batch.images, streams.fold("estimate"), settings.draws)
            made = certificates(selecting, estimating, settings.draws, model.sigma, settings.alpha)
            more = [
                CertifiedPoint(index=i, label=y, prediction=one.prediction, radius=one.radius)
                for i, y, one in zip(batch.index.tolist(), batch.labels.tolist(), made, strict=True)
            ]
            points += more
            if journal is not None:
                journal.append({"piece": "batch", "points": [point.model_dump(mode="json") for point in more]})
            if monitor is not None:
                monitor.update(len(points), {"certified": sum(_right(point) for point in points) / len(points)})
    if monitor is not None:
        monitor.finish()
    return _record(model.sigma, origin, settings, points, time.monotonic() - begun)


def _call(model: NoisyClassifier, origin: Origin, settings: Certification, places: Tensor) -> dict[str, object]:
    """What decides the certificates."""
    return {
        "piece": "call",
        "model": origin.model_digest,
        "data": origin.data_digest,
        "sigma": model.sigma,
        "selection_draws": settings.selection_draws,
        "draws": settings.draws,
        "alpha": settings.alpha,
        "seed": settings.seed,
        "places": places.tolist(),
    }


def _known(journal: Journal | None, call: dict[str, object]) -> list[CertifiedPoint]:
    """The certificates of an interrupted call with the same settings, in order."""
    if journal is None:
        return []
    entries = journal.entries()
    if not entries:
        journal.append(call)
        return []
    check_same("journal", _readable(entries[0]), _readable(call))
    return [CertifiedPoint(**point) for entry in entries[1:] for point in entry["points"]]


def _readable(call: Mapping[str, Any]) -> dict[str, Any]:
    """The call with its images by number and digest: a message cannot list thousands of places."""
    places = torch.tensor(call.get("places", []), dtype=torch.int64)
    return {**call, "places": f"{len(places)} images {index_digest(places)}"}


def _right(point: CertifiedPoint, radius: float = 0.0) -> bool:
    """Certain of the label at this radius; a certificate holds inside its radius, not on it."""
    return point.prediction == point.label and point.radius > radius


def _record(
    sigma: float, origin: Origin, settings: Certification, points: Sequence[CertifiedPoint], seconds: float
) -> CertificationRecord:
    count = len(points)
    radii = settings.radii or tuple(sigma * half / 2 for half in range(RADII))
    right = [sum(_right(point, radius) for point in points) for radius in radii]
    return CertificationRecord(
        **origin.fields(),
        sigma=sigma,
        selection_draws=settings.selection_draws,
        draws=settings.draws,
        alpha=settings.alpha,
        largest_radius=certified_radius(clopper_pearson_lower(settings.draws, settings.draws, settings.alpha), sigma),
        n=count,
        seed=settings.seed,
        certified=tuple(
            CertifiedShare(radius=radius, accuracy=k / count, interval=wilson_interval(k, count))
            for radius, k in zip(radii, right, strict=True)
        ),
        abstained=sum(point.radius == 0 for point in points),
        mean_radius=sum(point.radius for point in points if _right(point)) / count,
        points=tuple(points),
        forwards=count * (settings.selection_draws + settings.draws),
        seconds=seconds,
    )
