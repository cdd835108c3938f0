"""Disentanglement against robustness over the kept epochs of a run, each looked into like a run of its own."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from deconfound.errors import require
from deconfound.functional.statistics import EXACT_UP_TO, spearman
from deconfound.models.style_branch import StyleBranch
from deconfound.recipes.loading import Loaded, load_run
from deconfound.recipes.players import folder_of, unread
from deconfound.recipes.schema import Recipe
from deconfound.recipes.styling import PLAYER, style_analysis
from deconfound.recipes.targets import device_of
from deconfound.records import CheckpointsRecord, KeptEpoch, RankCorrelation, StyleRecord
from deconfound.store import RunFolder

if TYPE_CHECKING:
    from deconfound.recipes.analysing import Look, Scene

FEWEST = 3
"""Epochs below which ranks say nothing."""
NOTHING = -math.inf
"""Rank of a correlation that lies within chance."""
PLACES = 2
"""Decimals to which shares of content are ranked: a basis that lets all or nothing through differs by rounding."""


def checkpoints_analysis(look: Look, loaded: Loaded, recipe: Recipe) -> Callable[[Scene], CheckpointsRecord] | None:
    """What looks into the kept epochs; None for a run without a style branch.

    Raises:
        InputError: a run whose epochs were not kept, or too few of them.
    """
    if not isinstance(unread(loaded, recipe).players().get(PLAYER), StyleBranch):
        return None
    kept = folder_of(look.run).kept()
    rule = f"a run that kept {FEWEST} epochs or more (train with --set keep_every=1), not {len(kept)}"
    require(len(kept) >= FEWEST, "run", look.run, rule)
    return lambda scene: _record(scene, kept)


def _record(scene: Scene, kept: Mapping[int, RunFolder]) -> CheckpointsRecord:
    begun = time.perf_counter()
    found = {epoch: _style_at(scene, folder) for epoch, folder in kept.items()}
    points = tuple(_point(epoch, record) for epoch, record in found.items())
    first = next(iter(found.values()))
    return CheckpointsRecord(
        **scene.origin.fields(),
        threat=first.threat,
        attack=first.attack,
        n=first.n,
        seed=first.seed,
        seconds=time.perf_counter() - begun,
        basis=first.trained.name,
        points=points,
        correlations=tuple(correlations(points, first.trained.name)),
    )


def _style_at(scene: Scene, folder: RunFolder) -> StyleRecord:
    """The style analysis of a kept epoch, on the same images, by the same attack with the same random numbers."""
    look = replace(scene.look, run=str(folder.path), kind="style")
    loaded = load_run(look.run)
    loaded.model.to(device_of(look.device))
    assert loaded.recipe is not None  # load_run refuses weights without one
    work = style_analysis(look, loaded, loaded.recipe)
    assert work is not None  # the run has a style branch
    origin = replace(scene.origin, model_digest=loaded.digest)
    return work(replace(scene, look=look, loaded=loaded, recipe=loaded.recipe, origin=origin))


def _point(epoch: int, record: StyleRecord) -> KeptEpoch:
    return KeptEpoch(
        epoch=epoch,
        digest=record.model_digest,
        natural=record.content.natural,
        adversarial=record.content.adversarial,
        leakage=record.trained.leakage,
        held_out=record.trained.held_out,
        chance=record.trained.chance,
        recovered=record.trained.recovered,
    )


def correlations(points: Sequence[KeptEpoch], basis: str) -> list[RankCorrelation]:
    """Each measure of leakage against accuracy under the attack.

    What lies within chance is noise, whose ranks mean nothing: such epochs tie, below all others.

    Args:
        points: kept epochs.
        basis: of style; W Sigma is orthogonal to the exact one up to rounding, whose ranks mean nothing.
    """
    measures = {
        "largest correlation": [_censored(point, "largest") for point in points],
        "mean correlation": [_censored(point, "mean") for point in points],
        "canonical mean square": [_share(_censored(point, "canonical_mean_square")) for point in points],
        "content recovered": [_share(point.recovered) for point in points],
    } | ({} if basis == "exact" else {"largest cosine": [point.leakage for point in points]})
    robust = [point.adversarial.share for point in points]
    found = []
    for measure, values in measures.items():
        rho, p_value = spearman(values, robust)
        exact = len(points) <= EXACT_UP_TO
        within = sum(value == NOTHING for value in values)
        found.append(RankCorrelation(measure=measure, rho=rho, p_value=p_value, exact=exact, within_chance=within))
    return found


def _censored(point: KeptEpoch, name: str) -> float:
    """A correlation, ``NOTHING`` where chance alone would leave it."""
    found: float | None = getattr(point.held_out, name)
    if found is None:
        return math.nan
    return NOTHING if point.held_out.above(point.chance, name) is False else found


def _share(value: float | None) -> float:
    return math.nan if value is None else round(value, PLACES)


__all__ = ["checkpoints_analysis", "correlations"]
