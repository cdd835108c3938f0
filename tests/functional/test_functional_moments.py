"""Moments against their definitions, at saturation, and the penalties that belong to them."""

from __future__ import annotations

import math

import pytest
import torch

from deconfound.errors import InputError
from deconfound.functional.losses import kl_divergence
from deconfound.functional.moments import (
    MOMENTS,
    class_residual,
    distance_penalty,
    log_product,
    moment,
    residual,
    size_penalty,
)

LABELS = torch.tensor([0, 2, 1])


def test_log_product_is_the_product_of_log_probabilities():
    first, second = torch.randn(3, 4), torch.randn(3, 4)
    each = [torch.softmax(z, 1).log()[torch.arange(3), LABELS] for z in (first, second)]
    torch.testing.assert_close(log_product(LABELS, first, second), each[0] * each[1])
    assert (log_product(LABELS, first, second) >= 0).all()


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_saturated_logits_give_no_nan(sign, dtype):
    """softmax().log() has -inf here, and NaN in its gradient."""
    logits = torch.zeros(3, 4)
    logits[:, 0] = sign * 1e4
    logits[1] = torch.tensor([1e4, -1e4, -1e4, 1e4])
    for make in (
        lambda a, b: log_product(LABELS, a, b).mean(),
        lambda a, b: kl_divergence(a, b).mean(),
        lambda a, b: kl_divergence(b, a).mean(),
    ):
        first, second = logits.to(dtype).requires_grad_(), (-logits).to(dtype).requires_grad_()
        total = make(first, second)
        assert total.isfinite()
        assert all(g.isfinite().all() for g in torch.autograd.grad(total, (first, second), materialize_grads=True))


def test_gradients_in_double_precision():
    first, second = (torch.randn(3, 4, dtype=torch.float64, requires_grad=True) for _ in range(2))
    assert torch.autograd.gradcheck(lambda a, b: log_product(LABELS, a, b), (first, second))
    outcome = torch.randn(3, 4, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda a, b: residual(outcome, a, b), (first, second))
    assert torch.autograd.gradcheck(distance_penalty, (first, second))


def test_residual_is_refused_where_it_would_be_broadcast():
    outcome = torch.randn(5)
    assert residual(outcome, torch.zeros(5), torch.ones(5)).equal(outcome)
    with pytest.raises(InputError, match=r"hypothesis: got \(5, 1\); expected the outcome's shape \(5,\)"):
        residual(outcome, torch.zeros(5, 1), torch.ones(5))


def test_penalties_are_elementwise_means():
    test, instrument = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    assert float(distance_penalty(test, instrument)) == pytest.approx(float(((test - instrument) ** 2).sum() / 96))
    assert float(size_penalty(test, instrument)) == pytest.approx(float((test**2).sum() / 96))
    with pytest.raises(InputError, match="test: got"):
        distance_penalty(test, instrument[:, :1])


def test_the_residual_of_probabilities():
    """By hand, with no test function for the constant one, and finite where logits saturate."""
    hypothesis, test = torch.tensor([[0.0, 0.0]]), torch.tensor([[0.0, math.log(3)]])
    assert float(class_residual(torch.tensor([1]), hypothesis, test)) == pytest.approx(0.5 * 0.75 - 0.5 * 0.25)
    generator = torch.Generator().manual_seed(0)
    logits, labels = 3 * torch.randn(50, 4, generator=generator), torch.arange(50) % 4
    torch.testing.assert_close(class_residual(labels, logits, torch.ones(50, 4)), torch.zeros(50), atol=1e-6, rtol=0)
    assert class_residual(labels, 1e30 * logits, -1e30 * logits).abs().max() <= 1
    assert moment("class_residual").penalty is size_penalty


def test_names():
    assert moment("residual") is MOMENTS["residual"]
    assert moment("residual").penalty is size_penalty
    assert moment("log_product").penalty is distance_penalty
    with pytest.raises(InputError, match="did you mean 'residual'"):
        moment("residuals")
