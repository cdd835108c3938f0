"""Who judges a network where nobody says, and how records name the networks that transferred images come from."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from deconfound.core.protocols import Classifier, StochasticClassifier
from deconfound.evaluation import Majority
from deconfound.models.smoothed import Smoothed
from deconfound.recipes.loading import digest_of

SMOOTHED_DRAWS, SMOOTHED_LEVEL = 100, 0.001
"""PREDICT of Cohen et al. 2019: draws, and the level at which it abstains."""


def usual_judge(model: StochasticClassifier) -> Majority:
    """The majority of nine draws; of 100 for a smoothed network, which abstains where two classes are near.

    Abstaining counts as an error.
    """
    if isinstance(model, Smoothed):
        return Majority(model, draws=SMOOTHED_DRAWS, abstain=SMOOTHED_LEVEL)
    return Majority(model)


def tagged(sources: Mapping[str, Classifier]) -> tuple[str, ...]:
    """Each source of transferred images with what tells its weights from others."""
    return tuple(f"{name}, weights {_weights(source)}" for name, source in sources.items())


def _weights(source: Classifier) -> str:
    return digest_of(source)[:16] if isinstance(source, nn.Module) else "unknown"
