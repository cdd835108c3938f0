"""Moments of a minimax game between a hypothesis model and a test function, and what bounds the test function.

Shapes: B examples, K classes, m components of an outcome; labels (B,) int64, logits (B, K), moments (B,).

Source: Kim, Lee, Ro 2023 (CAFE), arXiv 2303.01052; Lewis & Syrgkanis 2018, arXiv 1803.07164; Dikkala et al. 2020,
arXiv 2006.07201.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from torch import Tensor
from torch.nn import functional as F

from deconfound.errors import require, unknown_name
from deconfound.functional.losses import cross_entropy


def log_product(labels: Tensor, hypothesis: Tensor, test: Tensor) -> Tensor:
    """Moment log p_y(hypothesis) * log p_y(test), p = softmax: CAFE's J before its mean.

    It is the hypothesis' cross entropy, weighted by the test function's: at least 0, without a residual. Minimised over
    the hypothesis it is weighted maximum likelihood, so it need not recover a linear effect that a confounder biases.

    Args:
        labels: (B,) int64.
        hypothesis: logits (B, K) of what the hypothesis model makes of the treatment.
        test: logits (B, K) of what the test function makes of the instrument.

    Returns:
        (B,), finite also for saturated logits.

    >>> import torch
    >>> log_product(torch.tensor([0]), torch.tensor([[0.0, 1e4]]), torch.tensor([[0.0, 1e4]])).tolist()
    [100000000.0]
    """
    return cross_entropy(hypothesis, labels) * cross_entropy(test, labels)


def residual(outcome: Tensor, hypothesis: Tensor, test: Tensor) -> Tensor:
    """Moment (Y - h(T)) . g(Z), the textbook condition of instrumental variables: its mean is 0 at the effect.

    Args:
        outcome: Y, (B,) or (B, m) float.
        hypothesis: h(T) in the same shape.
        test: g(Z) in the same shape.

    Raises:
        InputError: shapes that differ, which would be broadcast.

    >>> import torch
    >>> residual(torch.tensor([[3.0, 1.0]]), torch.tensor([[1.0, 1.0]]), torch.tensor([[2.0, 5.0]])).tolist()
    [4.0]
    """
    for field, value in (("hypothesis", hypothesis), ("test", test)):
        require(value.shape == outcome.shape, field, tuple(value.shape), f"the outcome's shape {tuple(outcome.shape)}")
    product = (outcome - hypothesis) * test
    return product.flatten(1).sum(dim=1) if product.ndim > 1 else product


def class_residual(labels: Tensor, hypothesis: Tensor, test: Tensor) -> Tensor:
    """Moment (e_y - softmax(hypothesis)) . softmax(test): the residual of probabilities, tested on the simplex.

    Its maximum over test functions is at least 0 (the constant one gives 0), and 0 only where the hypothesis predicts
    the classes as often as they occur, whatever the instrument.

    Args:
        labels: y, (B,) int64.
        hypothesis: logits (B, K) of what the hypothesis model makes of the treatment.
        test: logits (B, K) of what the test function makes of the instrument.

    >>> import torch
    >>> sure = torch.tensor([[9e9, 0.0]])
    >>> class_residual(torch.tensor([0]), sure, sure).tolist(), class_residual(torch.tensor([1]), sure, sure).tolist()
    ([0.0], [-1.0])
    """
    predicted, tested = (_precise(logits).softmax(dim=1) for logits in (hypothesis, test))
    return ((F.one_hot(labels, hypothesis.shape[1]) - predicted) * tested).sum(dim=1)


def distance_penalty(test: Tensor, instrument: Tensor) -> Tensor:
    """Mean over all elements of (g(Z) - Z)^2, a scalar: the test function stays near the identity (CAFE)."""
    require(
        test.shape == instrument.shape, "test", tuple(test.shape), f"the instrument's shape {tuple(instrument.shape)}"
    )
    return _precise(test - instrument).square().mean()


def size_penalty(test: Tensor, instrument: Tensor) -> Tensor:
    """Mean over all elements of g(Z)^2, a scalar, as the residual moment needs it.

    With ``distance_penalty`` the residual moment is 0 elsewhere: in the linear problem T = pi Z + .., at the effect
    plus 2 lambda / pi.
    """
    return _precise(test).square().mean()


def _precise(values: Tensor) -> Tensor:
    return values.float() if values.element_size() < 4 else values


@dataclass(frozen=True)
class Moment:
    """What the players of a game are about.

    Attributes:
        name: in records.
        value: (outcome, hypothesis, test) -> (B,); the hypothesis descends its mean, the test function ascends it.
        penalty: (g(Z), Z) -> scalar; bounds the test function.
    """

    name: str
    value: Callable[[Tensor, Tensor, Tensor], Tensor]
    penalty: Callable[[Tensor, Tensor], Tensor]

    @property
    def penalty_name(self) -> str:
        """In records.

        >>> moment("class_residual").penalty_name
        'size'
        """
        return getattr(self.penalty, "__name__", type(self.penalty).__name__).removesuffix("_penalty")


MOMENTS: Mapping[str, Moment] = MappingProxyType(
    {
        "log_product": Moment("log_product", log_product, distance_penalty),
        "residual": Moment("residual", residual, size_penalty),
        "class_residual": Moment("class_residual", class_residual, size_penalty),
    }
)


def moment(name: str) -> Moment:
    """The moment of that name, with the penalty that belongs to it.

    Raises:
        InputError: unknown name.
    """
    if name not in MOMENTS:
        raise unknown_name("moment", name, MOMENTS)
    return MOMENTS[name]
