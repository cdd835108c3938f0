"""Losses against torch in double precision, at saturation, and their gradients."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from deconfound.functional.losses import cross_entropy, kl_divergence, margin, soft_cross_entropy

LABELS = torch.tensor([0, 3, 1, 4, 2, 0])


def logits(seed, scale=3.0, dtype=torch.float64):
    return scale * torch.randn(6, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def test_losses_are_those_of_torch_per_example():
    z, t = logits(0), logits(1)
    torch.testing.assert_close(cross_entropy(z, LABELS), F.cross_entropy(z, LABELS, reduction="none"))
    torch.testing.assert_close(cross_entropy(z, LABELS), -z.log_softmax(1)[range(6), LABELS])
    torch.testing.assert_close(soft_cross_entropy(z, t), F.cross_entropy(z, t.softmax(1), reduction="none"))
    kl = F.kl_div(z.log_softmax(1), t.softmax(1), reduction="none").sum(1)
    torch.testing.assert_close(kl_divergence(t, z), kl)
    entropy = -(t.softmax(1) * t.log_softmax(1)).sum(1)
    torch.testing.assert_close(soft_cross_entropy(z, t) - entropy, kl)
    masked = z.clone()
    masked[range(6), LABELS] = -torch.inf
    torch.testing.assert_close(margin(z, LABELS), masked.max(1).values - z[range(6), LABELS])


def test_kl_is_zero_at_equality_and_positive_elsewhere():
    z = logits(2)
    torch.testing.assert_close(kl_divergence(z, z + 5), torch.zeros(6, dtype=torch.float64), rtol=0, atol=1e-14)
    assert float(kl_divergence(z, logits(3)).min()) > 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_losses_are_correct_and_finite_for_saturated_logits(dtype):
    z = torch.tensor([[1e4, -1e4, 0.0], [-1e4, 1e4, 0.0]], dtype=dtype, requires_grad=True)
    t = torch.tensor([[1e4, -1e4, 0.0], [1e4, -1e4, 0.0]], dtype=dtype, requires_grad=True)
    labels = torch.tensor([0, 0])
    expected = torch.tensor([0.0, 2e4], dtype=dtype)
    for loss in (cross_entropy(z, labels), soft_cross_entropy(z, t), kl_divergence(t, z)):
        torch.testing.assert_close(loss, expected)
        gradients = torch.autograd.grad(loss.sum(), [z, t], allow_unused=True, retain_graph=True)
        assert all(torch.isfinite(g).all() for g in gradients if g is not None)
        # d/dz is softmax(z) - target for all three.
        torch.testing.assert_close(gradients[0], torch.tensor([[0.0, 0, 0], [-1, 1, 0]], dtype=dtype))
    torch.testing.assert_close(margin(z, labels), torch.tensor([-1e4, 2e4], dtype=dtype))


def test_gradients_pass_the_numerical_check():
    z, t = logits(4, 1.0).requires_grad_(), logits(5, 1.0).requires_grad_()
    ordered = margin(z.detach(), LABELS).abs()
    runner_up = z.detach().topk(3, dim=1).values.diff(dim=1).abs()
    assert float(ordered.min()) > 1e-2
    assert float(runner_up.min()) > 1e-3  # away from ties, where the margin has a kink
    assert torch.autograd.gradcheck(kl_divergence, (t, z))
    assert torch.autograd.gradcheck(soft_cross_entropy, (z, t))
    assert torch.autograd.gradcheck(lambda x: margin(x, LABELS), (z,))
    assert torch.autograd.gradcheck(lambda x: cross_entropy(x, LABELS), (z,))
    assert torch.autograd.gradgradcheck(kl_divergence, (t, z))


def test_margin_is_positive_exactly_where_the_prediction_is_wrong():
    z = logits(6)
    assert torch.equal(margin(z, LABELS) > 0, z.argmax(1) != LABELS)
    tied = torch.tensor([[2.0, 2.0]])
    assert margin(tied, torch.tensor([1])).item() == 0
    assert margin(torch.tensor([[1.0, 3.0]]), torch.tensor([1])).item() == -2


def test_half_precision_logits_are_compared_in_full():
    """At a KL of 1e-5 bfloat16 arithmetic returns noise, also below 0; the inputs alone are half precision here."""
    z = logits(4).bfloat16()
    near = (z.float() + 0.01 * logits(5).float()).bfloat16().requires_grad_()
    exact = near.detach().double().requires_grad_()
    found, expected = kl_divergence(z, near), kl_divergence(z.double(), exact)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), expected, rtol=1e-3, atol=1e-7)
    (gradient,) = torch.autograd.grad(found.sum(), near)
    (truth,) = torch.autograd.grad(expected.sum(), exact)
    assert F.cosine_similarity(gradient.double().flatten(), truth.flatten(), dim=0) > 0.999
    for loss in (cross_entropy, margin):
        assert loss(z, LABELS).dtype == torch.float32
    assert soft_cross_entropy(z, near).dtype == torch.float32
