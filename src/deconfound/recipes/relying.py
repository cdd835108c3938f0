"""Causal reliance of a run, put together from its network and data with do-operations."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from torch import Tensor, nn

from deconfound.analysis import Predictor, measure_reliance, sweep
from deconfound.core.protocols import StochasticClassifier
from deconfound.core.streams import Streams
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
    """How a network is asked: a random one for the majority of its draws, as where it is judged.

    Raises:
        InputError: where it is asked: a network whose output is NaN.
    """
    if isinstance(model, StochasticClassifier):
        usual = usual_judge(model)
        majority = replace(usual, model=_Finite(model))
        return Predictor(
            predict=majority.predictions,
            modules=(model,),
            random=True,
            abstains=usual.abstain is not None,
            settings=usual.settings(),
        )
    return Predictor(predict=lambda images, streams: predicted(model(images)), modules=(model,))


@dataclass(frozen=True)
class _Finite:
    """A random network whose NaN is not taken for a draw that does not vote, which would pass for abstaining."""

    model: StochasticClassifier

    def draw(self, images: Tensor, streams: Streams, draws: int) -> Tensor:
        logits = self.model.draw(images, streams, draws)
        broken = int(logits.isnan().any(dim=2).any(dim=0).sum())
        require(broken == 0, "model", f"NaN on {broken} of {len(images)} images", "outputs that are not NaN")
        return logits


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
