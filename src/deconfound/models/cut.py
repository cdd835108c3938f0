"""Cutting a traced network in two at the value of one layer.

Shapes: B examples; features are whatever single tensor (B, ...) the layer gives.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, fx, nn

from deconfound.errors import InputError, reason

At = Literal["output", "input"]
"""Whether to cut behind a layer or before it."""

Part = Callable[[nn.Module, Tensor], Tensor]

# Above this many layers only the outermost names are listed; the nearest name is sought among all of them.
_LISTED = 40


@dataclass(frozen=True)
class Cut:
    """Two plain functions of (root, tensor) that use the root's own modules, and the name of the last linear layer.

    Attributes:
        features: (root, images) -> features.
        head: (root, features) -> logits.
        last: name of the linear layer whose output is the root's, or None.
    """

    features: Part
    head: Part
    last: str | None


class _Tracer(fx.Tracer):
    """Sees only the modules around the layer from inside; all others stay whole, whatever they do."""

    def __init__(self, opened: frozenset[str]) -> None:
        super().__init__()
        self._opened = opened

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return module_qualified_name not in self._opened


def enclosing(layer: str) -> tuple[str, ...]:
    """The names of the modules around a layer, from the outside.

    >>> enclosing("model.layer4.1")
    ('model', 'model.layer4')
    """
    parts = layer.split(".")
    return tuple(".".join(parts[:count]) for count in range(1, len(parts)))


def unknown_layer(model: nn.Module, layer: str) -> InputError:
    """An ``InputError`` that lists the layers of a model and names the nearest one."""
    names = [name for name, _ in model.named_modules() if name]
    near = difflib.get_close_matches(layer, names, n=1, cutoff=0.5)
    listed = names if len(names) <= _LISTED else [name for name in names if "." not in name]
    inside = f", and {len(names) - len(listed)} layers inside these" if len(names) > len(listed) else ""
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    return InputError("layer", layer, f"one of {', '.join(listed)}{inside}{hint}")


def cut(root: nn.Module, layer: str, at: At = "output", shown: str | None = None) -> Cut:
    """Trace ``root`` and cut it at the output (or the input) of one of its layers.

    head(root, features(root, x)) runs the very operations of root(x) on the very parameters. What python decides
    while tracing, such as ``self.training`` of the modules around the layer, is fixed in the result.

    Args:
        root: a module that maps one tensor to one tensor.
        layer: qualified name of the layer.
        at: behind the layer, or before it.
        shown: the name to use in messages.

    Raises:
        InputError: the modules around the layer cannot be traced, the layer runs never or more than once, or
            something besides its value reaches the output.
    """
    shown = shown or layer
    graph = _trace(root, layer, shown)
    images = next(node for node in graph.nodes if node.op == "placeholder")
    output = next(node for node in graph.nodes if node.op == "output").args[0]
    if not isinstance(output, fx.Node):
        raise InputError("model", f"{type(output).__name__} output", "a model that returns one tensor of logits")
    place = _place(graph, layer, at, shown)
    if images in _needed(output, place) and images is not place:
        rule = "a layer that everything behind it depends on alone; the images reach the output around this one too"
        raise InputError("layer", shown, rule)
    return Cut(
        features=_compiled(_part(graph, images, place, "images")),
        head=_compiled(_guarded(_part(graph, place, output, "features"), root)),
        last=_last_linear(root, output),
    )


def _trace(root: nn.Module, layer: str, shown: str) -> fx.Graph:
    try:
        return _Tracer(frozenset(enclosing(layer))).trace(root)
    except InputError:
        raise
    except Exception as error:  # tracing runs foreign code on symbols: anything can come out of it
        rule = "a layer inside modules that torch.fx can trace, or a model with features and head methods"
        raise InputError("layer", shown, f"{rule} ({reason(error)})") from error


def _place(graph: fx.Graph, layer: str, at: At, shown: str) -> fx.Node:
    calls = [node for node in graph.nodes if node.op == "call_module" and node.target == layer]
    if len(calls) != 1:
        raise InputError("layer", shown, f"a layer that runs once in a forward pass; this one runs {len(calls)} times")
    if at == "output":
        return calls[0]
    given = calls[0].args[0] if calls[0].args else None
    if len(calls[0].all_input_nodes) != 1 or not isinstance(given, fx.Node):
        raise InputError("layer", shown, "a layer with one tensor as its input")
    return given


def _needed(output: fx.Node, stop: fx.Node) -> set[fx.Node]:
    """All nodes that ``output`` depends on, not looking behind ``stop``."""
    found, waiting = set(), [output]
    while waiting:
        node = waiting.pop()
        if node not in found:
            found.add(node)
            waiting += [] if node is stop else node.all_input_nodes
    return found


def _part(graph: fx.Graph, source: fx.Node, sink: fx.Node, name: str) -> fx.Graph:
    part = fx.Graph()
    copies = {source: part.placeholder(name)}
    needed = _needed(sink, source)
    for node in graph.nodes:
        if node in needed and node not in copies:
            copies[node] = part.node_copy(node, lambda old: copies[old])
    part.output(copies[sink])
    return part


def _guarded(head: fx.Graph, root: nn.Module) -> fx.Graph:
    """The head on a copy of the features where it may write in place, so that the caller's tensor stays as it was."""
    if any(_writes(node, root) for node in head.nodes):
        given = next(node for node in head.nodes if node.op == "placeholder")
        users = list(given.users)
        with head.inserting_after(given):
            copy = head.call_method("clone", (given,))
        for user in users:
            user.replace_input_with(given, copy)
    return head


def _writes(node: fx.Node, root: nn.Module) -> bool:
    if node.op == "call_module":
        modules = root.get_submodule(str(node.target)).modules()
        return any(getattr(module, "inplace", False) for module in modules)
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    assigns = name in ("setitem", "iadd", "isub", "imul", "itruediv")
    trailing = node.op.startswith("call") and name.endswith("_") and not name.endswith("__")
    return assigns or trailing or bool(node.kwargs.get("inplace", False))


def _compiled(part: fx.Graph) -> Part:
    """A function of (root, tensor). It holds no module, so copies of the root never share parameters through it."""
    part.lint()
    code = part.python_code("self")
    scope: dict[str, Any] = dict(code.globals)
    exec(code.src, scope)  # the source comes from fx's own code generator, as in fx.GraphModule
    function: Part = scope["forward"]
    return function


def _last_linear(root: nn.Module, output: fx.Node) -> str | None:
    if output.op != "call_module":
        return None
    name = str(output.target)
    module = root.get_submodule(name)
    while isinstance(module, nn.Sequential) and len(module):
        child, module = list(module.named_children())[-1]
        name = f"{name}.{child}"
    return name if isinstance(module, nn.Linear) else None
