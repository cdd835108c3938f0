"""Keeping processes equal: players stay raw modules, what differs is averaged after each step.

A wrapped module would leave ranks with different weights as soon as a loss reached the raw one, so gradients of the
stepping player are averaged here, in one message, and BatchNorm statistics (and other floating buffers) after them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import cast

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from deconfound.core.estimators import RunningMoments


def all_reduce(fabric: Fabric, tensor: Tensor, operation: str = "mean") -> Tensor:
    """The mean or sum of a tensor over processes."""
    return cast(Tensor, fabric.all_reduce(tensor, reduce_op=operation))


def _average(fabric: Fabric, tensors: Sequence[Tensor]) -> None:
    for dtype in sorted({tensor.dtype for tensor in tensors}, key=str):
        same = [tensor for tensor in tensors if tensor.dtype == dtype]
        mean = all_reduce(fabric, torch.cat([tensor.flatten() for tensor in same]))
        for tensor, part in zip(same, mean.split([tensor.numel() for tensor in same]), strict=True):
            tensor.copy_(part.view(tensor.shape))


@torch.no_grad()
def average_gradients(fabric: Fabric, parameters: Iterable[nn.Parameter]) -> None:
    """Replace each gradient by its mean over processes. A parameter without one is passed over, as optimisers do."""
    if fabric.world_size > 1:
        _average(fabric, [p.grad for p in parameters if p.grad is not None])


@torch.no_grad()
def average_buffers(fabric: Fabric, modules: Iterable[nn.Module]) -> None:
    """Replace each floating buffer by its mean over processes; equal batches make running means exact.

    Running moments are left out: they have seen the whole batch, so they are equal already, and they are large.
    """
    if fabric.world_size == 1:
        return
    owners = (owner for module in modules for owner in module.modules() if not isinstance(owner, RunningMoments))
    found = {id(b): b for owner in owners for b in owner.buffers(recurse=False) if b.is_floating_point()}
    if found:
        _average(fabric, list(found.values()))


def agreed(fabric: Fabric, *flags: bool) -> tuple[bool, ...]:
    """Each flag, true on every process as soon as it is set on one; one message for all of them."""
    if fabric.world_size == 1:
        return flags
    asked = torch.tensor([float(flag) for flag in flags], device=fabric.device)
    return tuple(bool(count > 0) for count in all_reduce(fabric, asked, "sum").tolist())


def same_on_all(fabric: Fabric, numbers: Sequence[float]) -> bool:
    """Whether every process holds the same numbers; all learn the answer."""
    if fabric.world_size == 1:
        return True
    own = torch.tensor(list(numbers), dtype=torch.float64, device=fabric.device)
    mean = all_reduce(fabric, own.clone())
    (differs,) = agreed(fabric, not torch.equal(mean, own))
    return not differs


def same_everywhere(fabric: Fabric, modules: Iterable[nn.Module]) -> None:
    """Start every process from the first one's weights and buffers."""
    if fabric.world_size == 1:
        return
    for module in modules:
        for tensor in (*module.parameters(), *module.buffers()):
            torch.distributed.broadcast(tensor.data, src=0)
