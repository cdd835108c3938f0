"""BatchNorm folded into the layer before it, and ReLU made cheap: the same function in fewer passes over memory.

Shapes: B examples; images (B, C, H, W), logits (B, K); a layer's weight (c_out, ...), scale and shift (c_out,).
"""

from __future__ import annotations

import copy
import inspect
import operator
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.passes.shape_prop import ShapeProp
from torch.nn import functional as F

from deconfound.models.input_conv import InputConv2d

_ADDITIONS = (operator.add, torch.add)
_RELUS = (F.relu, torch.relu)


def fold(model: nn.Module, images: Tensor) -> fx.GraphModule:
    """Trace a model and rewrite it to the same function with fewer operations.

    conv(x) W + b, then (y - mean) / sqrt(var + eps) gamma + beta, becomes one layer: with
    scale = gamma / sqrt(var + eps), W' = scale W and b' = scale (b - mean) + beta, computed in float64. A BatchNorm
    that does not stand right behind a convolution or linear layer of its own stays as it is. ReLU moves behind a
    max-pooling (both orders are equal, gradient included) and works in place where nobody else reads its input.

    Args:
        model: in eval mode, frozen; its own modules are used and partly replaced, so hand in a copy.
        images: a few of them, to learn shapes.

    Returns:
        A traced module; every rewritten layer is a module of its own, so sharing in ``model`` does no harm.

    Raises:
        Exception: whatever tracing or the model raise: control flow that depends on values, for one.
    """
    graph = _Tracer().trace(model)
    traced = fx.GraphModule(model, graph)
    with torch.no_grad():
        ShapeProp(traced).propagate(images)
    _fold_norms(traced)
    _relu_behind_pooling(traced)
    _in_place(traced)
    traced.delete_all_unused_submodules()
    traced.recompile()
    return traced


class _Tracer(fx.Tracer):
    """Looks into everything but torch's own layers."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        if type(m) is InputConv2d:
            return True
        # a subclass elsewhere may do more than the layer it extends
        return super().is_leaf_module(m, module_qualified_name) and type(m).__module__.startswith("torch.")


def shape_of(node: fx.Node) -> tuple[int, ...] | None:
    """The shape of a node's value on the images it was tried on; None for what is no tensor."""
    meta = node.meta.get("tensor_meta")
    return tuple(meta.shape) if meta is not None and hasattr(meta, "shape") else None


def module_of(traced: fx.GraphModule, node: object) -> nn.Module | None:
    """The module that a node calls with one argument, or None."""
    if not isinstance(node, fx.Node) or node.op != "call_module" or len(node.args) != 1 or node.kwargs:
        return None
    return traced.get_submodule(str(node.target))


def _first(node: fx.Node) -> fx.Node | None:
    given = node.args[0] if node.args else None
    return given if isinstance(given, fx.Node) else None


def _replace(node: fx.Node, new: fx.Node) -> None:
    new.meta = dict(node.meta)
    node.replace_all_uses_with(new)
    node.graph.erase_node(node)


def _fold_norms(traced: fx.GraphModule) -> None:
    for place, node in enumerate(list(traced.graph.nodes)):
        affine = _scale_and_shift(traced, node)
        before = _first(node)
        layer = module_of(traced, before)
        if affine is None or before is None or layer is None or not _takes_a_fold(layer, before):
            continue
        name = f"folded_{place}"
        traced.add_submodule(name, _folded(layer, *affine))
        with traced.graph.inserting_before(node):
            new = traced.graph.call_module(name, before.args)
        _replace(node, new)
        traced.graph.erase_node(before)


def _takes_a_fold(layer: nn.Module, node: fx.Node) -> bool:
    # BatchNorm's channels are dimension 1, which is a linear layer's last only where its output is (B, c)
    channels_fit = type(layer) in (nn.Conv2d, InputConv2d) or (
        type(layer) is nn.Linear and len(shape_of(node) or ()) == 2
    )
    return channels_fit and len(node.users) == 1


def _folded(layer: nn.Module, scale: Tensor, shift: Tensor) -> nn.Module:
    old = dict(layer.named_parameters())
    weight = old["weight"].double()
    bias = old["bias"].double() if "bias" in old else torch.zeros_like(scale)
    values = {"weight": weight * scale.view(-1, *[1] * (weight.ndim - 1)), "bias": scale * bias + shift}
    new = copy.copy(layer)
    dtype = old["weight"].dtype
    new._parameters = {name: nn.Parameter(value.to(dtype), requires_grad=False) for name, value in values.items()}
    return new


def _scale_and_shift(traced: fx.GraphModule, node: fx.Node) -> tuple[Tensor, Tensor] | None:
    """BatchNorm in eval mode, layer or function, as x scale + shift in float64; None for anything else."""
    module = module_of(traced, node)
    if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d) and not module.training:
        return _affine(module.running_mean, module.running_var, module.weight, module.bias, module.eps)
    if node.op == "call_function" and node.target is F.batch_norm:
        bound = inspect.signature(F.batch_norm).bind(*node.args, **node.kwargs)
        bound.apply_defaults()
        given = {name: _constant(traced, value) for name, value in bound.arguments.items() if name != "input"}
        if given["training"] is False:
            return _affine(*(given[name] for name in ("running_mean", "running_var", "weight", "bias", "eps")))
    return None


def _affine(mean: Any, var: Any, gamma: Any, beta: Any, eps: Any) -> tuple[Tensor, Tensor] | None:
    if not isinstance(mean, Tensor) or not isinstance(var, Tensor):
        return None  # statistics of the batch, also in eval mode
    scale = (var.double() + eps).rsqrt()
    scale = scale if gamma is None else scale * gamma.double()
    shift = -mean.double() * scale
    return scale, shift if beta is None else shift + beta.double()


def _constant(traced: fx.GraphModule, value: Any) -> Any:
    """A tensor of the module for the node that fetches it; other values as they are."""
    if isinstance(value, fx.Node) and value.op == "get_attr":
        return operator.attrgetter(str(value.target))(traced)
    return value


def _relu_input(traced: fx.GraphModule, node: fx.Node) -> fx.Node | None:
    """What a node applies ReLU to; None if it does not, or if others would see it work in place."""
    function = node.op == "call_function" and node.target in _RELUS
    method = node.op == "call_method" and node.target in ("relu", "relu_")
    given = _first(node)
    if given is None or not (function or method or type(module_of(traced, node)) is nn.ReLU):
        return None
    return given if _is_fresh(traced, given) or not _works_in_place(traced, node) else None


def _works_in_place(traced: fx.GraphModule, node: fx.Node) -> bool:
    module = module_of(traced, node)
    return node.target == "relu_" or getattr(module, "inplace", False) or any((*node.args[1:], *node.kwargs.values()))


def _relu_behind_pooling(traced: fx.GraphModule) -> None:
    """pool(relu(x)) = relu(pool(x)), on a quarter of the values for the usual pooling."""
    for pool in list(traced.graph.nodes):
        module = module_of(traced, pool)
        layer = type(module) is nn.MaxPool2d and shape_of(pool) is not None
        function = pool.op == "call_function" and pool.target is F.max_pool2d and shape_of(pool) is not None
        relu = _first(pool) if layer or function else None
        given = _relu_input(traced, relu) if relu is not None else None
        if relu is None or given is None or len(relu.users) > 1:
            continue
        pool.replace_input_with(relu, given)
        with traced.graph.inserting_after(pool):
            later = traced.graph.call_function(F.relu, (pool,))
        pool.replace_all_uses_with(later, delete_user_cb=lambda user, later=later: user is not later)
        later.meta = dict(pool.meta)
        traced.graph.erase_node(relu)


def _in_place(traced: fx.GraphModule) -> None:
    """Additions and ReLUs write over a value that was made for them alone."""
    for node in list(traced.graph.nodes):
        given = _relu_input(traced, node)
        if given is not None:
            with traced.graph.inserting_before(node):
                new = traced.graph.call_function(F.relu, (given,), {"inplace": _is_fresh(traced, given)})
            _replace(node, new)
        elif node.op == "call_function" and node.target in _ADDITIONS and len(node.args) == 2 and not node.kwargs:
            _add_in_place(traced, node)


def _add_in_place(traced: fx.GraphModule, node: fx.Node) -> None:
    for target, other in (node.args, node.args[::-1]):
        fits = isinstance(target, fx.Node) and isinstance(other, fx.Node) and shape_of(target) == shape_of(other)
        if fits and _is_fresh(traced, target):
            node.target, node.args = operator.iadd, (target, other)
            return


def _is_fresh(traced: fx.GraphModule, node: object) -> bool:
    """Whether a value has one reader, is no view of another, and is not needed for its own gradient."""
    if not isinstance(node, fx.Node) or len(node.users) != 1:
        return False
    if node.op == "call_function":
        same = node.target is operator.iadd and _is_fresh(traced, node.args[0])
        return same or node.target in (*_ADDITIONS, F.max_pool2d)
    return type(module_of(traced, node)) in (nn.Conv2d, InputConv2d, nn.Linear, nn.MaxPool2d, nn.BatchNorm2d)
