"""A model's own frozen double: same function, no hooks, nothing shared.

Shapes: images (B, C, H, W), logits (B, K).
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize, remove_spectral_norm, remove_weight_norm
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

# These two compute the weight of a layer in a hook, so they belong to the function; all other hooks look on.
_PART_OF_THE_FUNCTION = (WeightNorm, SpectralNorm)
_HOOK_TABLES = (
    "_forward_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
    "_backward_hooks",
    "_backward_pre_hooks",
)


def replica(model: nn.Module) -> nn.Module:
    """A deep copy in eval mode without hooks, frozen, with parametrised weights made plain.

    Args:
        model: is only read; its mode and flags do not matter.

    Returns:
        A module that shares no tensor with ``model``. Weight and spectral norms, old and new, are computed once.

    Raises:
        Exception: whatever a module raises that cannot be copied.

    >>> net = nn.utils.parametrizations.weight_norm(nn.Linear(2, 2))
    >>> type(replica(net)).__name__, replica(net).weight.requires_grad
    ('Linear', False)
    """
    double = copy.deepcopy(model, _without_hooks(model)).eval()
    with torch.no_grad():
        for module in list(double.modules()):
            _make_plain(module)
    return double.requires_grad_(False)


def _without_hooks(model: nn.Module) -> dict[int, Any]:
    """What ``deepcopy`` is to take as already copied: empty hook tables, and weights that are results, detached."""
    known: dict[int, Any] = {}
    for module in model.modules():
        for table in (vars(module).get(name) for name in _HOOK_TABLES):
            if table is not None:
                kept = {key: hook for key, hook in table.items() if isinstance(hook, _PART_OF_THE_FUNCTION)}
                known[id(table)] = OrderedDict(kept)
        for value in vars(module).values():
            if isinstance(value, Tensor) and not value.is_leaf:  # torch refuses to copy these
                known[id(value)] = value.detach().clone()
    return known


def _make_plain(module: nn.Module) -> None:
    for hook in list(module._forward_pre_hooks.values()):
        if isinstance(hook, WeightNorm):
            remove_weight_norm(module, hook.name)
        elif isinstance(hook, SpectralNorm):
            remove_spectral_norm(module, hook.name)
    if parametrize.is_parametrized(module):
        # torch's own removal takes the property off a class that the model's layer shares with its double
        names: list[str] = list(module.parametrizations)  # type: ignore[arg-type]
        values = {name: getattr(module, name).detach().clone() for name in names}
        module.__class__ = parametrize.type_before_parametrizations(module)
        del module._modules["parametrizations"]
        for name, value in values.items():
            module.register_parameter(name, nn.Parameter(value, requires_grad=False))
