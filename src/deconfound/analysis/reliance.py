"""Causal reliance: what becomes of predictions when a variable of the images is set.

Shapes: N images, B of a batch; images (B, C, H, W), labels and predictions (N,) int64, -1 where nothing is predicted.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from deconfound.analysis.observing import device_of, quiet
from deconfound.analysis.readers import share_of
from deconfound.core.checks import check_images
from deconfound.core.origin import Origin
from deconfound.core.protocols import ConfoundedSource, ImageSource, Intervenable, MarkedSource, Monitor
from deconfound.core.streams import Streams
from deconfound.errors import InputError, require, require_whole
from deconfound.functional.predictions import NO_PREDICTION
from deconfound.functional.statistics import paired_interval
from deconfound.records import Accuracy, Intervention, ReliancePoint, RelianceRecord

SWEEP = (0.5, 0.9, 0.99)
"""After 1/K, no confounding."""

# Two agreement probabilities that stand for the same data.
_SAME = 1e-12


@dataclass(frozen=True, kw_only=True)
class Predictor:
    """How a classifier is asked.

    Attributes:
        predict: (images (B, C, H, W), streams) -> classes (B,), -1 where nothing is predicted.
        modules: everything that must be in eval mode meanwhile; the first says where images go.
        random: whether the streams matter.
        abstains: whether it may predict nothing; -1 of any other is refused, as the output is then NaN.
        settings: how a random classifier is asked, for the record.
    """

    predict: Callable[[Tensor, Streams], Tensor]
    modules: tuple[object, ...] = ()
    random: bool = False
    abstains: bool = False
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class _Answers:
    """Labels (N,) and predictions (N,) of one arm."""

    labels: Tensor
    predictions: Tensor

    @property
    def right(self) -> Tensor:
        return self.predictions == self.labels

    @property
    def silent(self) -> Tensor:
        return self.predictions == NO_PREDICTION

    def moved(self, other: _Answers) -> Tensor:
        """Of the images that both predict, which they predict otherwise."""
        return (self.predictions != other.predictions)[~self.silent & ~other.silent]


def sweep(classes: int) -> tuple[float, ...]:
    """The agreement probabilities of a sweep: 1/K, where the confounder says nothing, then 0.5, 0.9 and 0.99.

    >>> sweep(4)
    (0.25, 0.5, 0.9, 0.99)
    """
    return tuple(sorted({1 / classes, *SWEEP}))


def measure_reliance(
    predictor: Predictor,
    source: ImageSource,
    index: Tensor,
    origin: Origin,
    *,
    rhos: Sequence[float] = (),
    seed: int = 0,
    batch_size: int = 256,
    monitor: Monitor | None = None,
) -> RelianceRecord:
    """Accuracy as observed and under each do-operation, on the same images and with the same random numbers.

    reliance = share of predictions that change under do(confounder = other), of the images with a prediction before and
    after; bounds say what the others could make of it. An image's random numbers depend on the
    seed and its place in the data set, so that nothing but the variable that was set moves a prediction.

    Args:
        predictor: the classifier.
        source: data with do-operations (``Intervenable``), N images or more.
        index: the places in the source, (N,) int64.
        origin: of the model and the data.
        rhos: further agreement probabilities of the test images, besides the data's own.
        seed: of a random classifier.
        batch_size: images at a time.
        monitor: shows progress.

    Raises:
        InputError: data without do-operations, a rho where the data have none, images outside [0, 1],
            a prediction missing from who does not abstain, such as of a NaN.

    Source: the reading of a classifier by interventions on a known structural causal model (Pearl 2009, chapter 3).
    """
    begun = time.perf_counter()
    if not isinstance(source, Intervenable):
        rule = "data with do-operations: shapes, or a name with +patch:rho=... or +tint:rho=... behind it"
        raise InputError("data", source.name, rule)
    device = device_of(*predictor.modules)
    asked = _Asked(predictor, index, seed, batch_size, device)
    sources = _sources(source, rhos)
    if monitor is not None:
        monitor.start("do", len(sources))
    points, unsteady = [], None
    with quiet(device, *predictor.modules):
        for done, (rho, own, images) in enumerate(sources, 1):
            observed = asked(images)
            points.append(_point(asked, images, observed, rho, own))
            if own and predictor.random:
                again = asked(images, "again")
                unsteady = share_of(observed.moved(again))
            if monitor is not None:
                monitor.update(done, {})
    if monitor is not None:
        monitor.finish()
    return RelianceRecord(
        **origin.fields(),
        n=len(index),
        seed=seed,
        seconds=time.perf_counter() - begun,
        points=tuple(points),
        mark=source.mark if isinstance(source, MarkedSource) else "",
        judge=dict(predictor.settings),
        unsteady=unsteady,
    )


@dataclass(frozen=True)
class _Asked:
    """Asks for the predictions on the chosen images of a source."""

    predictor: Predictor
    index: Tensor
    seed: int
    batch_size: int
    device: torch.device

    def __call__(self, source: ImageSource, *name: str) -> _Answers:
        require_whole("batch_size", self.batch_size)
        labels, predictions = [], []
        with torch.no_grad():
            for batch in source.batches(self.index.split(self.batch_size), self.device):
                check_images(batch.images)
                streams = Streams(self.seed, batch.index).fold("reliance", *name)
                predictions.append(self.predictor.predict(batch.images, streams).cpu())
                labels.append(batch.labels.cpu())
        found = _Answers(torch.cat(labels), torch.cat(predictions))
        if not self.predictor.abstains and bool(found.silent.any()):
            raise InputError("model", f"no prediction on {int(found.silent.sum())} images", "outputs that are not NaN")
        return found


def _sources(source: ImageSource, rhos: Sequence[float]) -> list[tuple[float | None, bool, ImageSource]]:
    """(rho, whether it is the data's own, images), by rising rho."""
    if not isinstance(source, ConfoundedSource):
        require(not rhos, "rho", list(rhos), "none: these data do not say how often their confounder agrees")
        return [(None, True, source)]
    own = source.rho
    others = sorted({rho for rho in rhos if abs(rho - own) > _SAME})
    found: list[tuple[float | None, bool, ImageSource]] = [(rho, False, source.at_rho(rho)) for rho in others]
    return sorted([*found, (own, True, source)], key=lambda one: one[0] or 0.0)


def _point(asked: _Asked, source: ImageSource, observed: _Answers, rho: float | None, own: bool) -> ReliancePoint:
    assert isinstance(source, Intervenable)
    done = tuple(
        _intervention(variable, value, observed, asked(source.do(variable, value)))
        for variable, values in source.interventions().items()
        for value in values
    )
    silent = share_of(observed.silent)
    return ReliancePoint(rho=rho, own=own, observed=_accuracy(observed), interventions=done, abstained=silent)


def _intervention(variable: str, value: str, observed: _Answers, found: _Answers) -> Intervention:
    before, after = observed.right, found.right
    lost, won, n = int((before & ~after).sum()), int((after & ~before).sum()), len(before)
    moved = observed.moved(found)
    least = int(moved.sum())
    return Intervention(
        variable=variable,
        value=value,
        accuracy=_accuracy(found),
        gap=(lost - won) / n,
        gap_interval=paired_interval(lost, won, n),
        changed=share_of(moved),
        compared=len(moved),
        bounds=(least / n, (least + n - len(moved)) / n),
        abstained=share_of(found.silent),
    )


def _accuracy(answers: _Answers) -> Accuracy:
    return Accuracy(**share_of(answers.right).model_dump())


__all__ = ["Predictor", "SWEEP", "measure_reliance", "sweep"]
