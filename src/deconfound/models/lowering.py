"""A traced network in bfloat16 where it costs, in float32 where rounding would show.

Shapes: B examples; images (B, C, H, W) float32, logits (B, K) float32.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, fx, nn

from deconfound.models.folding import module_of, shape_of

# Per-pixel steps in front of the first layer: the iterate's last bits decide between neighbouring images.
_PIXELWISE = ("sub", "add", "mul", "truediv", "div", "expect_images", "sub_", "div_", "contiguous")
# Steps between the last map and the last linear layer that a float32 copy of a small tensor makes cheap.
_SHAPING = ("flatten", "view", "reshape", "mean", "squeeze", "adaptive_avg_pool2d", "avg_pool2d", "dropout")
_SHAPING_LAYERS = (nn.Flatten, nn.AdaptiveAvgPool2d, nn.AvgPool2d, nn.Dropout, nn.Identity)
# These compute in float32 inside and take float32 weights next to bfloat16 maps.
_KEEP_WEIGHTS = (nn.BatchNorm2d,)


class _Enter(torch.autograd.Function):
    """Images -> channels-last in ``dtype``; the gradient comes back contiguous in the images' dtype."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, images: Tensor, dtype: torch.dtype) -> Tensor:
        ctx.entered = images.dtype  # type: ignore[attr-defined]
        return images.to(dtype, memory_format=torch.channels_last)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *gradients: Tensor) -> tuple[Tensor, None]:
        entered: torch.dtype = ctx.entered  # type: ignore[attr-defined]
        return gradients[0].to(entered).contiguous(), None


def enter(images: Tensor, dtype: torch.dtype) -> Tensor:
    """Images (B, C, H, W) in ``dtype``, channels-last; the gradient has the layout and dtype of plain images."""
    entered: Tensor = _Enter.apply(images, dtype)
    return entered


def lower(traced: fx.GraphModule, dtype: torch.dtype) -> fx.GraphModule:
    """Rewrite a traced float32 network to run channels-last in ``dtype``.

    Stays in float32: normalisation in front of the first layer, so that the iterate is rounded once and late; global
    pooling and the last linear layer, so that logits keep more than the 8 bits of bfloat16.

    Args:
        traced: from :func:`folding.fold`, which also left the shapes; changed in place.
        dtype: bfloat16, or float32 for the memory layout alone.

    Raises:
        ValueError: a tensor or layer that is needed in both precisions.
    """
    graph = traced.graph
    front = list(_front(graph))
    tail = list(_tail(traced))
    kept = {*front, *tail}
    kept |= {node for node in graph.nodes if node.op == "get_attr" and kept.issuperset(node.users)}
    _cast_weights(traced, kept, dtype)
    with graph.inserting_after(front[-1]):
        entered = graph.call_function(enter, (front[-1], dtype))
    front[-1].replace_all_uses_with(entered, delete_user_cb=lambda user: user is not entered)
    output = next(node for node in graph.nodes if node.op == "output")
    last = tail[-1] if tail else output
    source = last.all_input_nodes[0]
    with graph.inserting_before(last):
        wide = graph.call_method("to", (source,), {"dtype": torch.float32})
    last.replace_input_with(source, wide)
    traced.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    graph.lint()
    traced.recompile()
    return traced


def _name(node: fx.Node) -> str:
    return node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")


def _front(graph: fx.Graph) -> Iterator[fx.Node]:
    """The images, and what is done to them pixel by pixel."""
    node = next(node for node in graph.nodes if node.op == "placeholder")
    while True:
        yield node
        users = list(node.users)
        if len(users) != 1 or users[0].op not in ("call_function", "call_method") or _name(users[0]) not in _PIXELWISE:
            return
        if any(other is not node and other.op != "get_attr" for other in users[0].all_input_nodes):
            return
        node = users[0]


def _tail(traced: fx.GraphModule) -> Iterator[fx.Node]:
    """From the output back: the last linear layer, and what only shapes its input; empty if logits come otherwise."""
    node, linear = next(node for node in traced.graph.nodes if node.op == "output").all_input_nodes[0], False
    while True:
        layer = module_of(traced, node)
        shaping = isinstance(layer, _SHAPING_LAYERS) or (layer is None and _name(node) in _SHAPING)
        ends = type(layer) is nn.Linear and not linear
        if not (ends or (shaping and linear)):
            return
        yield node
        linear = True
        node = node.all_input_nodes[0]
        if sum(shape_of(user) is not None for user in node.users) != 1:
            return


def _cast_weights(traced: fx.GraphModule, kept: set[fx.Node], dtype: torch.dtype) -> None:
    uses = {True: set[str](), False: set[str]()}
    for node in traced.graph.nodes:
        if node.op in ("call_module", "get_attr"):
            uses[node in kept].add(str(node.target))
    if uses[True] & uses[False]:
        raise ValueError(f"{', '.join(sorted(uses[True] & uses[False]))} is used in two precisions")
    for target in uses[False]:
        home, _, name = target.rpartition(".")
        value = getattr(traced.get_submodule(home), name)
        if isinstance(value, nn.Module):
            if not isinstance(value, _KEEP_WEIGHTS):
                value.to(dtype)
        elif isinstance(value, Tensor) and value.is_floating_point():
            value.data = value.data.to(dtype)
