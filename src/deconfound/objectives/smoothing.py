"""Training for randomised smoothing (Cohen et al. 2019, arXiv 1902.02918)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import cast

from torch import nn

from deconfound.core.protocols import StochasticClassifier
from deconfound.core.streams import Streams
from deconfound.core.types import Batch, DeclaredAttack, Loss, Progress, Step
from deconfound.errors import require
from deconfound.functional.losses import cross_entropy


class Smoothing:
    """Minimises the batch mean of CE(z(x + sigma n), y), n ~ N(0, I), one draw per image (section 3.3).

    Args:
        model: a classifier under noise, ``draw(images, streams, draws) -> (R, B, K)``, such as ``models.Smoothed``,
            which holds sigma.

    Raises:
        InputError: a model that draws nothing.
    """

    def __init__(self, model: nn.Module) -> None:
        rule = "a classifier under noise (in Python: models.Smoothed(network, sigma))"
        require(isinstance(model, StochasticClassifier), "model", type(model).__name__, rule)
        self.model = model

    def players(self) -> Mapping[str, nn.Module]:
        """The model alone."""
        return {"model": self.model}

    def steps(self, batch: Batch, progress: Progress, streams: Streams) -> Iterator[Step]:
        """One step of the model."""
        yield Step("model", lambda: self._loss(batch, streams))

    def _loss(self, batch: Batch, streams: Streams) -> Loss:
        logits = cast(StochasticClassifier, self.model).draw(batch.images, streams.fold("noise"), 1)[0]
        total = cross_entropy(logits, batch.labels).mean()
        return Loss(total, {"noisy_cross_entropy": total.detach()}, logits.detach())

    def declared_attacks(self) -> tuple[DeclaredAttack, ...]:
        """None: attacks on random classifiers climb its expected loss by themselves."""
        return ()
