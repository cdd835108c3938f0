"""A network as an ONNX graph, which other runtimes read.

Shapes: B examples, C channels, H height, W width, K classes; images (B, C, H, W) in [0, 1], logits (B, K).
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

from deconfound.core.guards import evaluating, frozen
from deconfound.errors import InputError, reason, require

INPUT, OUTPUT, BATCH = "images", "logits", "batch"
OPSET = 20
"""What torch's exporter chooses by itself in version 2.13; said here so that another version gives the same graph."""

_EXTRA = "pip install 'deconfound[export]'"
# A file of protocol buffers ends at 2 GiB; weights beside the graph would be a second file.
_LARGEST = 2**31 - 2**20
# torch's own, when it copies its pytrees.
_THEIRS = r"`isinstance\(treespec, LeafSpec\)` is deprecated"


def check_graphs() -> None:
    """Say early that the packages of the extra ``export`` are missing.

    Raises:
        InputError: onnx, onnxscript or onnxruntime cannot be imported.
    """
    for name in ("onnx", "onnxscript", "onnxruntime"):
        _package(name)


def to_graph(model: nn.Module, images: Tensor, *, about: Mapping[str, str], name: str = "network") -> bytes:
    """The graph of a classifier in eval mode, for batches of any size: input ``images``, output ``logits``.

    Equal networks give equal bytes: the traces that the exporter leaves in every node, which name files of this
    machine, are taken out.

    Args:
        model: images (B, C, H, W) in [0, 1] -> logits (B, K); its mode is put back.
        images: at least two, of the shape to expect.
        about: written into the graph's metadata.
        name: of the graph.

    Raises:
        InputError: the extra ``export`` is missing, a network that cannot be traced, or weights of 2 GiB and more.
    """
    check_graphs()
    held = sum(tensor.nbytes for tensor in (*model.parameters(), *model.buffers()))
    require(
        held < _LARGEST, "format", "onnx", f"weights below 2 GiB for a graph in one file; these take {held:,} bytes"
    )
    with ExitStack() as stack:
        for guard in (evaluating(model), frozen(model), torch.no_grad(), _silent()):
            stack.enter_context(guard)
        model(images)  # what networks keep for a size is made outside the trace
        try:
            program = torch.onnx.export(
                model,
                (images,),
                dynamo=True,
                verbose=False,
                input_names=[INPUT],
                output_names=[OUTPUT],
                dynamic_shapes=({0: torch.export.Dim(BATCH)},),
                opset_version=OPSET,
            )
        except torch.onnx.OnnxExporterError as error:
            rule = f"a network that torch.export can trace, {type(model).__name__} is none"
            raise InputError("format", "onnx", f"{rule} ({reason(error.__cause__ or error)})") from error
    assert program is not None  # with dynamo there is one
    return _signed(program.model_proto, name, about)


def run_graph(graph: bytes, images: Tensor) -> Tensor:
    """Logits (B, K) of a graph under onnxruntime on the processor."""
    session = _package("onnxruntime").InferenceSession(graph, providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run([OUTPUT], {INPUT: images.detach().cpu().numpy()})[0])


class Headed(nn.Module):
    """A network by its two parts, ``head(features(images))``: for one whose forward keeps more than its logits."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model: Any = model

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, C, H, W) -> logits (B, K)."""
        logits: Tensor = self.model.head(self.model.features(images))
        return logits


def _signed(proto: Any, name: str, about: Mapping[str, str]) -> bytes:
    for part in (proto.graph, *proto.graph.node, *proto.graph.input, *proto.graph.output, *proto.graph.value_info):
        del part.metadata_props[:]
    for node in proto.graph.node:
        node.ClearField("doc_string")
    for tensor in proto.graph.initializer:
        del tensor.metadata_props[:]
    proto.graph.name = name
    proto.doc_string = about.get("about", "")
    _package("onnx").helper.set_model_props(proto, dict(about))
    data: bytes = proto.SerializeToString(deterministic=True)
    return data


@contextmanager
def _silent() -> Iterator[None]:
    """Nothing of the exporter's own deprecations and remarks."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", _THEIRS, FutureWarning)
        logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            logger.setLevel(level)


def _package(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError as error:
        raise InputError("format", "onnx", f"the packages of the extra export ({error}): {_EXTRA}") from None
