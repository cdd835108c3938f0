"""Instrumental-variable regression as a game: a hypothesis against the worst test function, in turn.

Shapes: B examples, m components of an outcome; treatments T, instruments Z and outcomes Y have B rows each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from deconfound.core.streams import Streams
from deconfound.core.types import Batch, DeclaredAttack, Loss, Progress, Step
from deconfound.errors import require
from deconfound.functional.moments import Moment, moment


class Observation(NamedTuple):
    """What is known of a batch: treatment T, instrument Z, outcome Y."""

    treatment: Tensor
    instrument: Tensor
    outcome: Tensor


def weight_of(penalty: float) -> float:
    """lambda, if it is a number of at least 0; with 0 nothing bounds the test function.

    Raises:
        InputError: something else.
    """
    require(0 <= penalty < float("inf"), "penalty", penalty, "a number of at least 0, which bounds the test function")
    return penalty


def ascended(value: Tensor, bound: Tensor, penalty: float) -> Tensor:
    """What the test function descends: -E[m] + lambda bound, and -E[m] itself with lambda 0.

    Without the bound in it, a penalty that has overflowed makes no NaN of a moment that has not.

    >>> float(ascended(torch.tensor(2.0), torch.tensor(float("inf")), 0.0))
    -2.0
    """
    return penalty * bound - value if penalty else -value


class Minimax:
    """min over h, max over g of E[m(Y, h(T), g(Z))] - lambda penalty(g(Z), Z).

    Per batch g steps first, on -E[m] + lambda penalty; then h, on E[m] with the g that has stepped. With ``residual``,
    m = (Y - h(T)) g(Z) and the penalty E[g(Z)^2]: for linear players h solves the two-stage least squares problem, so
    it finds the effect of T where a confounder of T and Y biases least squares. With ``log_product`` (CAFE's J) h is
    fitted by maximum likelihood, weighted by how badly g predicts: nothing asks the residual to be independent of Z.
    Measured on T = Z + U + noise, Y = T + 2 U + noise: the effect is 1, least squares gives 1.90, ``residual`` 0.97,
    ``log_product`` 1.49 with lambda 1 and 2.44 with lambda 10.

    Args:
        hypothesis: h, treatment -> prediction; the model that is kept.
        test_function: g, instrument -> what the penalty reads.
        read: an observation from a batch.
        moments: name of a moment, or one of one's own.
        penalty: lambda, at least 0; with 0 nothing bounds the test function.
        decode: applied to h(T) and g(Z) before the moment, e.g. from a value to logits.

    Raises:
        InputError: unknown moment, a penalty below 0.

    Source: Lewis & Syrgkanis 2018, arXiv 1803.07164; Dikkala et al. 2020, arXiv 2006.07201.
    """

    def __init__(
        self,
        hypothesis: nn.Module,
        test_function: nn.Module,
        read: Callable[[Batch], Observation],
        moments: str | Moment = "residual",
        penalty: float = 1.0,
        decode: Callable[[Tensor], Tensor] = lambda values: values,
    ) -> None:
        self.hypothesis, self.test_function, self.read, self.decode = hypothesis, test_function, read, decode
        self.moment = moment(moments) if isinstance(moments, str) else moments
        self.penalty = weight_of(penalty)

    def players(self) -> Mapping[str, nn.Module]:
        """The hypothesis as the model, and the test function g."""
        return {"model": self.hypothesis, "g": self.test_function}

    def steps(self, batch: Batch, progress: Progress, streams: Streams) -> Iterator[Step]:
        """A step of g, then one of h against the new g."""
        seen = self.read(batch)
        yield Step("g", lambda: self._ascent(seen))
        yield Step("model", lambda: self._descent(seen))

    def _ascent(self, seen: Observation) -> Loss:
        with torch.no_grad():
            predicted = self.decode(self.hypothesis(seen.treatment))
        tested = self.test_function(seen.instrument)
        value = self.moment.value(seen.outcome, predicted, self.decode(tested)).mean()
        bound = self.moment.penalty(tested, seen.instrument)
        return Loss(ascended(value, bound, self.penalty), {"moment": value.detach(), "penalty": bound.detach()})

    def _descent(self, seen: Observation) -> Loss:
        with torch.no_grad():
            tested = self.decode(self.test_function(seen.instrument))
        value = self.moment.value(seen.outcome, self.decode(self.hypothesis(seen.treatment)), tested).mean()
        return Loss(value, {"moment": value.detach()})

    def declared_attacks(self) -> tuple[DeclaredAttack, ...]:
        """None: nothing here is a classifier."""
        return ()
