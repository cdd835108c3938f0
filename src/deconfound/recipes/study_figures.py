"""The small numbers of an analysis, as the record of a study keeps them."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from deconfound.recipes.study_analyses import Analysis
from deconfound.records import (
    Accuracy,
    AnalysisRecord,
    CheckpointsRecord,
    EffectsRecord,
    Estimate,
    ExposureRecord,
    InstrumentsRecord,
    Mean,
    PicturesRecord,
    Reader,
    RelianceRecord,
    Share,
    Statistic,
    StudyAnalysis,
    StudyFigure,
    StyleRecord,
)
from deconfound.records.effects import PENALTIES, SHORT


def analysis_result(analysis: Analysis, record: AnalysisRecord) -> StudyAnalysis:
    """An analysis without its pictures and lists.

    Args:
        analysis: as the study asks for it.
        record: of it.
    """
    return StudyAnalysis(
        analysis=analysis.name,
        about=analysis.kind,
        n=record.n,
        seed=record.seed,
        figures=tuple(_FIGURES[analysis.kind](record)),
        notes=record.notes,
        seconds=record.seconds,
        digests={"model": record.model_digest, "data": record.data_digest},
        machine=record.machine,
    )


def _share(name: str, found: Accuracy | Share, at: str = "") -> StudyFigure:
    return StudyFigure(name=name, at=at, value=found.share, interval=found.interval, share=True)


def _number(name: str, found: Mean | Estimate, at: str = "") -> StudyFigure:
    return StudyFigure(name=name, at=at, value=found.value, interval=found.interval)


def _reliance(record: RelianceRecord) -> Iterator[StudyFigure]:
    for point in record.points:
        own = " (own)" if point.own else ""
        at = "" if point.rho is None else f"rho {point.rho:.3g}{own}"
        yield _share("observed", point.observed, at)
        for done in point.interventions:
            yield _share(done.name, done.accuracy, at)
            yield StudyFigure(
                name=f"gap under {done.name}", at=at, value=done.gap, interval=done.gap_interval, share=True
            )
        if point.reliance is not None:
            yield _share("reliance", point.reliance, at)
        if point.abstained is not None and point.abstained.share > 0:
            yield _share("abstained", point.abstained, at)
    if record.unsteady is not None:
        yield _share("unsteady", record.unsteady)


def _effects(record: EffectsRecord) -> Iterator[StudyFigure]:
    for kind in record.kinds:
        yield _share(SHORT.get(kind.name, kind.name), kind.accuracy)
    yield _number("|g(Z) - Z|", record.distance)
    for kind in record.kinds:
        yield StudyFigure(name=f"cross entropy {SHORT.get(kind.name, kind.name)}", value=kind.cross_entropy)
    other = "" if record.moment_name == "log_product" else f" ({record.moment_name})"
    yield StudyFigure(name=f"J{other}", value=record.moment)
    yield StudyFigure(name=f"mean {PENALTIES.get(record.penalty_name, record.penalty_name)}", value=record.bound)
    for under in record.others:
        for kind in under.kinds:
            yield _share(SHORT.get(kind.name, kind.name), kind.accuracy, under.attack.name)
    for one in record.distances:
        for version in ("inversion", "clean", "adversarial"):
            yield _number(f"KL of {version}, {one.network}", getattr(one, version))


def _reader(reader: Reader, at: str) -> Iterator[StudyFigure]:
    yield _share("natural", reader.natural, at)
    yield _share("adversarial", reader.adversarial, at)
    yield StudyFigure(name="KL", at=at, value=reader.divergence)


def _measured(name: str, value: float | None, at: str) -> Iterator[StudyFigure]:
    """A figure, nothing for one that older records do not have."""
    if value is not None:
        yield StudyFigure(name=name, at=at, value=value)


def _style(record: StyleRecord) -> Iterator[StudyFigure]:
    yield from _reader(record.content, "content")
    for basis in record.bases:
        at = f"style, {basis.name}{' (own)' if basis.trained else ''}"
        yield from _reader(basis.predictor, at)
        yield from _measured("canonical correlation", basis.stored.canonical_largest, at)
        yield from _measured("canonical mean square", basis.stored.canonical_mean_square, at)
        yield from _measured("content recovered", basis.recovered, at)
        yield StudyFigure(name="largest correlation", at=at, value=basis.held_out.largest)
        yield from _measured("largest by chance", basis.chance.largest if basis.chance else None, at)
        yield StudyFigure(name="same class", at=at, value=basis.same_class, share=True)


def _instruments(record: InstrumentsRecord) -> Iterator[StudyFigure]:
    yield StudyFigure(name="joint F", value=record.joint_f)
    for name in ("wooldridge", "wu_hausman", "sargan", "hansen"):
        test: Statistic | None = getattr(record, name)
        if test is not None:
            yield StudyFigure(name=f"p {name.replace('_', '-')}", value=test.p_value)
    for name, share in (("R2 of components", record.components_r2), ("R2 of features", record.features_r2)):
        if share is not None:
            yield StudyFigure(name=name, value=share, share=True)
    for stage in record.first_stages:
        yield StudyFigure(name="F", at=stage.name, value=stage.f)
    for effect in record.effects:
        for name in ("ols", "tsls", "gmm"):
            yield _number(name, getattr(effect, name), effect.name)


def _exposure(record: ExposureRecord) -> Iterator[StudyFigure]:
    yield _share("all looks", record.together)
    yield _number("spread per exposure", record.spread)
    yield _number("spread", record.raw_spread)


def _pictures(record: PicturesRecord) -> Iterator[StudyFigure]:
    found = [feature for image in record.images for feature in image.features]
    for kind in dict.fromkeys(feature.kind for feature in found):
        mine = [feature for feature in found if feature.kind == kind]
        yield StudyFigure(name="cosine", at=kind, value=statistics.fmean(one.cosine for one in mine))
        agree = statistics.fmean(one.prediction == one.decoded for one in mine)
        yield StudyFigure(name="predicted as decoded", at=kind, value=agree, share=True)


def _checkpoints(record: CheckpointsRecord) -> Iterator[StudyFigure]:
    for one in record.correlations:
        yield StudyFigure(name="rank correlation with robust accuracy", at=one.measure, value=one.rho)
        yield StudyFigure(name="p", at=one.measure, value=one.p_value)
    for point in record.points:
        at = f"epoch {point.epoch}"
        yield _share("adversarial", point.adversarial, at)
        yield StudyFigure(name="largest correlation", at=at, value=point.held_out.largest)
        yield StudyFigure(name="mean correlation", at=at, value=point.held_out.mean)
        yield from _measured("canonical mean square", point.held_out.canonical_mean_square, at)
        yield from _measured("content recovered", point.recovered, at)


_FIGURES: Mapping[str, Callable[[Any], Iterator[StudyFigure]]] = {
    "style": _style,
    "reliance": _reliance,
    "instruments": _instruments,
    "pictures": _pictures,
    "exposure": _exposure,
    "effects": _effects,
    "checkpoints": _checkpoints,
}

__all__ = ["analysis_result"]
