"""Context managers that change something for a while and always put it back, also after an error."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Literal

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

Mode = Literal["eval", "train", "keep"]


@contextmanager
def frozen(*modules: object) -> Iterator[None]:
    """No parameter of the modules requires a gradient inside; the flags and ``.grad`` come back as they were.

    Objects that are not modules (plain functions) are passed over.
    """
    parameters = [p for module in modules if isinstance(module, nn.Module) for p in module.parameters()]
    flags = [(p, p.requires_grad) for p in parameters]
    try:
        for parameter, flag in flags:
            if flag:
                parameter.requires_grad_(False)
        yield
    finally:
        for parameter, flag in flags:
            parameter.requires_grad_(flag)


@contextmanager
def moded(mode: Mode, *modules: object) -> Iterator[None]:
    """The modules in ``eval`` or ``train`` mode (or as they are); each submodule's own flag comes back."""
    found = [(m, m.training) for module in modules if isinstance(module, nn.Module) for m in module.modules()]
    try:
        if mode != "keep":
            for module, _ in found:
                module.training = mode == "train"
        yield
    finally:
        for module, training in found:
            module.training = training


@contextmanager
def statistics_kept(*modules: object) -> Iterator[None]:
    """BatchNorm in train mode normalises by the batch as ever, but its running statistics do not move inside."""
    found = [m for module in modules if isinstance(module, nn.Module) for m in module.modules()]
    moving = [m for m in found if isinstance(m, _BatchNorm) and m.track_running_stats]
    try:
        for module in moving:
            module.track_running_stats = False
        yield
    finally:
        for module in moving:
            module.track_running_stats = True


def evaluating(*modules: object) -> AbstractContextManager[None]:
    """The modules in eval mode; each submodule's own flag comes back."""
    return moded("eval", *modules)


@contextmanager
def buffers_kept(*modules: object) -> Iterator[None]:
    """Buffers of the modules (BatchNorm statistics, counters) come back bit for bit as they were."""
    found = [b for module in modules if isinstance(module, nn.Module) for b in module.buffers()]
    saved = [buffer.detach().clone() for buffer in found]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, value in zip(found, saved, strict=True):
                buffer.copy_(value)


@contextmanager
def working_folder_importable() -> Iterator[None]:
    """Modules in the working folder can be imported inside; a console script does not look there by itself."""
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        yield
    finally:
        with suppress(ValueError):
            sys.path.remove(here)


@contextmanager
def full_float32() -> Iterator[None]:
    """Products and convolutions on an accelerator in float32 proper, not TF32, whose error decides close verdicts."""
    products, convolutions = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    try:
        torch.set_float32_matmul_precision("highest")
        torch.backends.cudnn.allow_tf32 = False
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = convolutions
        torch.set_float32_matmul_precision(products)


@contextmanager
def randomness_kept(device: torch.device | str = "cpu") -> Iterator[None]:
    """Global random state of the processor and of ``device`` comes back as it was."""
    device = torch.device(device)
    accelerators = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=accelerators):
        yield


@contextmanager
def seeded(seed: int, device: torch.device | str = "cpu") -> Iterator[None]:
    """Global random state set to ``seed`` inside (for layers that draw from it, such as dropout), then restored."""
    with randomness_kept(device):
        torch.manual_seed(seed)
        yield


@contextmanager
def attacking(mode: Mode, device: torch.device | str, *modules: object) -> Iterator[None]:
    """The surroundings of every attack: parameters frozen, mode set, gradients on, random state kept."""
    with ExitStack() as stack:
        stack.enter_context(randomness_kept(device))
        stack.enter_context(frozen(*modules))
        stack.enter_context(moded(mode, *modules))
        stack.enter_context(torch.enable_grad())
        yield
