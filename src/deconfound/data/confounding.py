"""The structural causal model that all confounded sources share, and its do-operations.

    Y = the class of what is drawn;  C = Y with probability rho, else any other class;  X = f(Y, C, the rest)

Y causes X and C comes with Y, so C predicts Y without causing it. Shapes: B examples, K classes; classes (B,) int64.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

import torch
from torch import Tensor

from deconfound.core.streams import Streams
from deconfound.errors import InputError, require, unknown_name

INTERVENTIONS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {"confounder": ("random", "other"), "shape": ("other",)}
)


@dataclass(frozen=True, kw_only=True)
class Done:
    """What has been done to a source: a value for each variable that was set, None for those that were left alone."""

    confounder: str | None = None
    shape: str | None = None

    def and_do(self, variable: str, value: str) -> Done:
        """One more variable set; setting one again replaces its value.

        Raises:
            InputError: a variable or a value that does not exist.
        """
        if variable not in INTERVENTIONS:
            raise unknown_name("do", str(variable), INTERVENTIONS)
        if value not in INTERVENTIONS[variable]:
            raise InputError(f"do: {variable}", value, f"one of {', '.join(INTERVENTIONS[variable])}")
        return replace(self, **{variable: value})

    def __str__(self) -> str:
        """For names and digests.

        >>> str(Done().and_do("shape", "other").and_do("confounder", "random"))
        ' do(confounder=random) do(shape=other)'
        """
        pairs = ((variable, getattr(self, variable)) for variable in INTERVENTIONS)
        return "".join(f" do({variable}={value})" for variable, value in pairs if value is not None)


def confounder(labels: Tensor, streams: Streams, rho: float, classes: int, value: str | None = None) -> Tensor:
    """C of each example, (B,) int64.

    Observed (``value`` None): P(C = Y) = rho, all other classes alike; rho = 1/K makes C independent of Y. ``random``:
    uniform over the K classes. ``other``: uniform over the classes that are neither Y nor what was observed, so that C
    both misleads and changes; with K = 2 where the two already differ only a change is possible.

    Args:
        labels: Y as observed, (B,) int64 in [0, K).
        streams: one per example; each use has a fold of its own, so that no value moves another.
        rho: P(C = Y), in [0, 1].
        classes: K, at least 2.
        value: see ``INTERVENTIONS``.
    """
    if value == "random":
        return streams.fold("random confounder").integers(0, classes)
    another = (labels + streams.fold("disagreement").integers(1, classes)) % classes
    agrees = streams.fold("agreement").uniform(dtype=torch.float64) < rho
    observed = torch.where(agrees, labels, another)
    return observed if value is None else _other(labels, observed, streams, classes)


def _other(labels: Tensor, observed: Tensor, streams: Streams, classes: int) -> Tensor:
    """Uniform over [0, K) without two numbers: count what is left, draw, and step over them in order."""
    low, high = torch.minimum(labels, observed), torch.maximum(labels, observed)
    left = classes - 1 - (low != high).to(torch.int64)
    drawn = (streams.fold("other confounder").uniform(dtype=torch.float64) * left).floor().to(torch.int64)
    drawn = drawn + (drawn >= low)
    drawn = drawn + ((low != high) & (drawn >= high))
    return torch.where(left > 0, drawn, 1 - observed)


def other_shape(labels: Tensor, streams: Streams, classes: int) -> Tensor:
    """A class that is not Y, all alike, (B,) int64."""
    return (labels + streams.fold("other shape").integers(1, classes)) % classes


def check_confounding(rho: float, classes: int, field: str) -> None:
    """What every confounded source asks of its numbers.

    Raises:
        InputError: rho outside [0, 1], or fewer than two classes.
    """
    number = isinstance(rho, (int, float)) and not isinstance(rho, bool)
    require(number and 0 <= rho <= 1, f"{field}: rho", rho, "a probability in [0, 1], such as 0.9")
    require(classes >= 2, f"{field}: classes", classes, "at least two classes to confound")
