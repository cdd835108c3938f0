"""Causal reliance of a run, put together from its network and data with do-operations."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from torch import nn

from deconfound.analysis import Predictor, measure_reliance, sweep
from deconfound.core.protocols import StochasticClassifier
from deconfound.data.naming import probability
from deconfound.errors import require
from deconfound.functional.predictions import predicted
from deconfound.recipes.judges import usual_judge
from deconfound.recipes.loading import Loaded
from deconfound.recipes.schema import Recipe
from deconfound.records import RelianceRecord

if TYPE_CHECKING:
    from deconfound.recipes.analysing import Look, Scene

SWEEP = "sweep"


def reliance_analysis(look: Look, loaded: Loaded, recipe: Recipe) -> Callable[[Scene], RelianceRecord]:
    """What measures reliance; every run fits, if the data have do-operations."""
    predictor = predictor_of(loaded.model)

    def work(scene: Scene) -> RelianceRecord:
        asked = parse_rhos(look.rho)
        return measure_reliance(
            predictor,
            scene.test,
            scene.index,
            scene.origin,
            rhos=sweep(len(scene.test.class_names)) if asked is None and look.rho is not None else asked or (),
            seed=look.seed,
            batch_size=look.batch_size,
            monitor=scene.monitor,
        )

    return work


def predictor_of(model: nn.Module) -> Predictor:
    """How a network is asked: a random one for the majority of its draws, as where it is judged."""
    if isinstance(model, StochasticClassifier):
        majority = usual_judge(model)
        return Predictor(predict=majority.predictions, modules=(model,), random=True, settings=majority.settings())
    return Predictor(predict=lambda images, streams: predicted(model(images)), modules=(model,))


def parse_rhos(given: str | float | Sequence[float] | None) -> tuple[float, ...] | None:
    """Agreement probabilities from a number, several, or text joined by commas; None for ``sweep`` and for nothing.

    Raises:
        InputError: something else.

    >>> parse_rhos("1/2,0.9"), parse_rhos(0.9), parse_rhos("sweep")
    ((0.5, 0.9), (0.9,), None)
    """
    if given is None or given == SWEEP:
        return None
    several = given.split(",") if isinstance(given, str) else given if isinstance(given, Iterable) else [given]
    words = [str(rho) for rho in several]
    require(bool(words), "rho", given, "sweep, or probabilities in [0, 1] joined by commas")
    return tuple(probability(word.strip(), "rho") for word in words)
