"""Content and style of a network (CausalAdv): what each says of the label, and how much of one is in the other.

Shapes: N images, B of a batch, K classes, d features; weight W (K, d), covariance Sigma and anchors and basis B (d, d),
features f (N, d), unit features n(f) = f / (|f|_2 + 1e-6), style s = n(f) B^T (N, d), logits (N, K).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from deconfound.analysis.attacker import attack_fields
from deconfound.analysis.chance import chance_correlations
from deconfound.analysis.correlations import finite, measured_correlations, recovered, stored_correlations
from deconfound.analysis.neighbours import nearest, queries, same_class
from deconfound.analysis.observing import Observed, SplitClassifier, device_of, observe, quiet
from deconfound.analysis.readers import reader
from deconfound.core.origin import Origin
from deconfound.core.pictures import png
from deconfound.core.protocols import Attack, ImageSource, Monitor
from deconfound.errors import require
from deconfound.functional.style import Basis, deflated_basis, exact_basis, leakage, left_out, unit
from deconfound.records import Neighbour, StyleBasis, StyleQuery, StyleRecord

QUERIES, NEIGHBOURS = 8, 5


@dataclass(frozen=True, kw_only=True)
class StyleParts:
    """What the analysis needs of a run.

    Attributes:
        model: cut before its last layer.
        weight: W of the last layer, (K, d).
        covariance: Sigma of the unit features, (d, d).
        bases: by name; each from the same W, Sigma and anchors.
        trained: the name of the basis that the predictor was trained on.
        predict: style (B, d) -> logits (B, K) of g, without the correction that needs the label.
        modules: everything that must be in eval mode meanwhile, besides the model.
    """

    model: SplitClassifier
    weight: Tensor
    covariance: Tensor
    bases: Mapping[str, Basis]
    trained: str
    predict: Callable[[Tensor], Tensor]
    modules: tuple[object, ...] = ()


def bases_of(weight: Tensor, covariance: Tensor, anchors: Tensor) -> dict[str, Basis]:
    """The exact and the deflated basis of the same last layer, covariance and anchors.

    Args:
        weight: W, (K, d).
        covariance: Sigma, (d, d).
        anchors: orthonormal rows, (d, d).

    Raises:
        InputError: numbers that are not finite, such as weights of a training that diverged.
    """
    crossed = finite("weight", weight.detach()) @ finite("covariance", covariance)
    made = {"exact": exact_basis(crossed, anchors), "deflation": deflated_basis(crossed, anchors)}
    return {name: Basis(matrix, float(leakage(crossed.double(), matrix.double()))) for name, matrix in made.items()}


def analyse_style(
    parts: StyleParts,
    source: ImageSource,
    index: Tensor,
    attack: Attack,
    origin: Origin,
    *,
    seed: int = 0,
    batch_size: int = 256,
    monitor: Monitor | None = None,
) -> StyleRecord:
    """Accuracies and shifts of content z and style g, correlations and leakage of each basis, nearest neighbours.

    The style of an adversarial image is taken in the basis of the natural ones, as in training.

    Args:
        parts: of the run.
        source: test images.
        index: the places in the source, (N,) int64.
        attack: makes the adversarial versions; with ``keep="last"`` every image takes every step.
        origin: what the record says about model and data.
        seed: of all random numbers.
        batch_size: images at a time; it changes nothing beyond rounding.
        monitor: shows progress.

    Raises:
        InputError: bad input, such as images outside [0, 1] or features that are not finite.

    Source: Zhang et al. 2022, sections 3 and 5; the table and the comparison of bases are ours.
    """
    require(parts.trained in parts.bases, "trained", parts.trained, f"one of {', '.join(parts.bases)}")
    start = time.perf_counter()
    device = device_of(parts.model)
    with quiet(device, parts.model, *parts.modules):
        seen = observe(
            parts.model, source, index, attack, seed=seed, batch_size=batch_size, device=device, monitor=monitor
        )
        finite("features", seen.natural.features)
        bases = tuple(_basis(parts, name, seen, index, seed, batch_size, device) for name in parts.bases)
        shown = _queries(parts, source, index, seen)
    return StyleRecord(
        **origin.fields(),
        **attack_fields(attack),
        n=len(index),
        seed=seed,
        seconds=time.perf_counter() - start,
        dimension=parts.weight.shape[1],
        content=reader(seen.natural.logits, seen.adversarial.logits, seen.labels),
        bases=bases,
        queries=shown,
    )


def _basis(
    parts: StyleParts, name: str, seen: Observed, index: Tensor, seed: int, batch_size: int, device: torch.device
) -> StyleBasis:
    basis = parts.bases[name]
    weight, covariance = parts.weight.detach().cpu().double(), parts.covariance.detach().cpu().double()
    matrix, points = basis.matrix.detach().cpu().double(), unit(seen.natural.features.double())
    content, coordinates = points @ weight.T, points @ matrix.T
    order = index.argsort()  # the same shuffles in whatever order the images came
    style = _style(parts, name, seen.natural.features)
    moved = _style(parts, name, seen.adversarial.features)
    return StyleBasis(
        name=name,
        trained=name == parts.trained,
        removed=left_out(weight @ covariance, matrix),
        leakage=basis.leakage,
        stored=stored_correlations(weight, covariance, matrix),
        held_out=measured_correlations(content, coordinates),
        chance=chance_correlations(content[order], coordinates[order], seed),
        recovered=recovered(weight, covariance, matrix, content, coordinates),
        same_class=same_class(style, seen.labels),
        predictor=reader(
            _predicted(parts, style, batch_size, device), _predicted(parts, moved, batch_size, device), seen.labels
        ),
    )


def _style(parts: StyleParts, name: str, features: Tensor) -> Tensor:
    """Style n(f) B^T, (N, d)."""
    return unit(features) @ parts.bases[name].matrix.detach().cpu().T


def _predicted(parts: StyleParts, style: Tensor, batch_size: int, device: torch.device) -> Tensor:
    with torch.no_grad():
        return torch.cat([parts.predict(part.to(device)).cpu() for part in style.split(batch_size)])


def _queries(parts: StyleParts, source: ImageSource, index: Tensor, seen: Observed) -> tuple[StyleQuery, ...]:
    style = _style(parts, parts.trained, seen.natural.features)
    places = queries(seen.labels, QUERIES)
    if len(style) < 2:
        return ()
    found, distances = nearest(style, places, NEIGHBOURS)
    return tuple(
        _query(source, index, seen.labels, int(place), row, away)
        for place, row, away in zip(places, found, distances, strict=True)
    )


def _query(
    source: ImageSource, index: Tensor, labels: Tensor, place: int, found: Tensor, distances: Tensor
) -> StyleQuery:
    places = torch.cat([torch.tensor([place]), found])
    (batch,) = source.batches([index[places]])
    pictures = [png(image) for image in batch.images]
    return StyleQuery(
        index=int(index[place]),
        label=int(labels[place]),
        png=pictures[0],
        neighbours=tuple(
            Neighbour(index=int(index[other]), label=int(labels[other]), distance=float(away), png=picture)
            for other, away, picture in zip(found, distances, pictures[1:], strict=True)
        ),
    )
