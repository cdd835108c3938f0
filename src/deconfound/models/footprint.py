"""What a forward and a backward pass of a model take: multiplications and memory.

Shapes: B examples; images (B, C, H, W), logits (B, K).
"""

from __future__ import annotations

import math
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from deconfound.core.guards import evaluating, frozen, randomness_kept
from deconfound.errors import require

LARGEST_BATCH = 512
"""A convention. Images per second are level between 32 and 64 at 500 million multiply-adds an image and still rise by
half from 128 to 512 at 0.6 million; a batch is also what a resumed run repeats, so it must not take minutes."""

# One batch of attack steps; several times this is in use while allocators keep what was freed.
_CPU_BYTES = 2**31
# Of an accelerator's memory; the rest is for the library's own scratch and for whoever shares the device.
_ACCELERATOR_SHARE = 0.3

# While the gradient passes a layer, that of its output and of its input exist beside what was saved; the library's
# own scratch for a convolution is of the same order.
_GRADIENTS_ALIVE = 3


def memory_bound(device: torch.device) -> int:
    """Bytes that one batch may take: 2 GiB, on a CUDA device 30 % of its memory."""
    if device.type != "cuda":
        return _CPU_BYTES
    return int(_ACCELERATOR_SHARE * torch.cuda.get_device_properties(device).total_memory)


def multiply_adds(model: nn.Module, images: Tensor) -> int:
    """Multiply-adds of convolutions and linear layers for one image.

    sum over layers of (values in the output of one image) * (weights behind each), found by one forward pass.

    Args:
        model: called once without gradient; a matrix product outside a layer (attention) is not seen.
        images: (B, C, H, W), the first is used.

    >>> multiply_adds(nn.Sequential(nn.Flatten(), nn.Linear(4, 3)), torch.zeros(1, 1, 2, 2))
    12
    """
    found: list[int] = []

    def count(layer: nn.Module, _: Any, output: Tensor) -> None:
        weight: Tensor = layer.weight  # type: ignore[assignment]
        found.append(output.numel() * weight[0].numel())

    with ExitStack() as stack:
        stack.enter_context(evaluating(model))
        stack.enter_context(randomness_kept(images.device))
        stack.enter_context(torch.no_grad())
        for layer in model.modules():
            if isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.Linear):
                stack.callback(layer.register_forward_hook(count).remove)
        model(images[:1])
    return sum(found)


def activation_bytes(model: nn.Module, images: Tensor) -> int:
    """Bytes of memory that the input gradient of one image takes: everything saved for it, and three gradient maps.

    Args:
        model: images -> logits; called once with its parameters frozen, in eval mode.
        images: (B, C, H, W); at most two are used, whose mean is rounded up.

    >>> activation_bytes(nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.ReLU()), torch.zeros(2, 1, 2, 2)) > 0
    True
    """
    held = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    sizes: dict[int, int] = {}
    alive: list[Tensor] = []  # so that no storage is freed and its address used again

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in held:
            sizes[storage.data_ptr()] = storage.nbytes()
            alive.append(tensor)
        return tensor

    sample = images[:2].detach().clone().requires_grad_()
    with ExitStack() as stack:
        stack.enter_context(evaluating(model))
        stack.enter_context(frozen(model))
        stack.enter_context(randomness_kept(images.device))
        stack.enter_context(torch.enable_grad())
        stack.enter_context(torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor))
        model(sample)
    taken = sum(sizes.values()) + _GRADIENTS_ALIVE * max(sizes.values(), default=0)
    return math.ceil(taken / len(sample))


def batch_size_within(model: nn.Module, images: Tensor, limit_bytes: int) -> int:
    """The largest batch whose input gradient fits into a bound on memory, between 1 and 512.

    At least 1, since one image at a time is the least that can be done; at most ``LARGEST_BATCH``, which says why.

    Args:
        model: as for :func:`activation_bytes`.
        images: likewise.
        limit_bytes: above 0.

    Raises:
        InputError: a limit that is not a positive number.

    >>> batch_size_within(nn.Flatten(), torch.zeros(1, 1, 2, 2), 10**9)
    512
    """
    require(limit_bytes > 0, "limit_bytes", limit_bytes, "a number of bytes above 0")
    return max(1, min(LARGEST_BATCH, limit_bytes // max(1, activation_bytes(model, images))))
