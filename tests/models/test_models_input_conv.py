"""The convolution on grey images is the ordinary one, in value and in every derivative."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import deconfound
from deconfound.models.folding import fold
from deconfound.models.input_conv import FEW, InputConv2d

GEOMETRY = [(1, 4, {"kernel_size": 4, "stride": 2, "padding": 1}), (2, 3, {"kernel_size": 3}),
            (1, 2, {"kernel_size": (3, 5), "stride": (2, 1), "padding": (0, 2), "bias": False})]  # fmt: skip


def twins(inputs, outputs, settings, dtype=torch.float64):
    torch.manual_seed(0)
    own = InputConv2d(inputs, outputs, **settings).to(dtype)
    plain = nn.Conv2d(inputs, outputs, **settings).to(dtype)
    plain.load_state_dict(own.state_dict())
    return own, plain


@pytest.mark.parametrize(("inputs", "outputs", "settings"), GEOMETRY)
def test_values_and_gradients_of_both_orders(inputs, outputs, settings):
    found = []
    images = torch.rand(3, inputs, 9, 11, dtype=torch.float64)
    for layer in twins(inputs, outputs, settings):
        x = images.clone().requires_grad_()
        out = layer(x)
        first = torch.autograd.grad(out.square().sum(), [x, *layer.parameters()], create_graph=True)
        second = torch.autograd.grad(sum(one.square().sum() for one in first), [x, *layer.parameters()])
        found.append([out, *first, *second])
    for one, other in zip(*found, strict=True):
        assert torch.allclose(one, other, rtol=1e-10, atol=1e-10)
    assert type(found[0][0].grad_fn) is not type(found[1][0].grad_fn)  # it was the other way to the same numbers


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")  # torch's own forward mode
def test_forward_mode_and_one_jacobian_per_example():
    own, plain = twins(*GEOMETRY[0])
    x, moved = torch.rand(2, 1, 8, 8, dtype=torch.float64), torch.rand(2, 1, 8, 8, dtype=torch.float64)
    alone = lambda layer: torch.func.grad(lambda v: layer(v[None]).square().sum())  # noqa: E731
    for one in (
        lambda layer: torch.func.jvp(layer, (x,), (moved,))[1],
        lambda layer: torch.func.jacrev(lambda v: layer(v).sum(dim=(1, 2, 3)))(x),
        lambda layer: torch.func.vmap(alone(layer))(x),
    ):
        assert torch.allclose(one(own), one(plain), rtol=1e-10)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_lower_precisions_round_no_worse(dtype):
    own, plain = twins(*GEOMETRY[0], dtype=dtype)
    exact = copy.deepcopy(plain).double()
    x = torch.rand(8, 1, 12, 12).to(dtype)
    errors = []
    for layer, images in ((own, x), (plain, x), (exact, x.double())):
        moved = images.clone().requires_grad_()
        errors.append(torch.autograd.grad(layer(moved).double().sum(), moved)[0].double())
    off = [float((one - errors[2]).norm()) for one in errors[:2]]
    assert off[0] <= 2 * off[1] + 1e-6 * float(errors[2].norm())


def test_autocast_computes_where_the_ordinary_one_does():
    own, plain = twins(*GEOMETRY[0], dtype=torch.float32)
    x = torch.rand(4, 1, 12, 12)
    found = []
    for layer in (own, plain):
        moved = x.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16):
            out = layer(moved)
        assert out.dtype == torch.bfloat16
        out.float().square().sum().backward()
        found.append((out, moved.grad, layer.weight.grad, layer.bias.grad))
        assert all(one.dtype == torch.float32 for one in found[-1][1:])
    assert torch.equal(found[0][0], found[1][0])
    for one, other in zip(found[0][1:], found[1][1:], strict=True):
        assert (one - other).norm() <= 0.02 * other.norm()


def test_elsewhere_it_is_the_ordinary_one():
    x = torch.rand(2, FEW + 1, 8, 8, requires_grad=True)
    layer = InputConv2d(FEW + 1, 2, 3)
    assert "Convolution" in type(layer(x).grad_fn).__name__
    grey = InputConv2d(1, 2, 3)
    assert "Convolution" in type(grey(torch.rand(2, 1, 8, 8)).grad_fn).__name__  # no gradient by the image
    for other in ({"padding": "same"}, {"padding": 1, "padding_mode": "reflect"}, {"dilation": 2}):
        assert "Convolution" in type(InputConv2d(1, 2, 3, **other)(x[:, :1]).grad_fn).__name__


@pytest.mark.parametrize("name", ["small", "lenet5", "smallcnn"])
def test_networks_fold_with_it(name):
    torch.manual_seed(0)
    model = deconfound.models.build(name, classes=10, channels=1, size=28).eval()
    images = torch.rand(4, 1, 28, 28)
    folded = fold(model, images)
    assert torch.allclose(folded(images), model(images), atol=1e-5)
    assert sum(isinstance(layer, InputConv2d) for layer in folded.modules()) == 1
