"""Weights from elsewhere into a network: all of them or none.

No file is read here; the caller loads the mapping.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from deconfound.errors import InputError
from deconfound.models.network import Network

# Where training scripts keep the weights inside a checkpoint, and what wrappers put before each name.
_NESTS = ("state_dict", "model_state_dict", "model", "net")
_PREFIXES = ("module.", "model.", "_orig_mod.")
_SHOWN = 3

T = TypeVar("T")


def fit_state(model: nn.Module, state: Mapping[str, Any], source: str = "weights") -> None:
    """Load a mapping of tensors into a model, strictly.

    Unpacks ``{"state_dict": ...}``, drops a prefix such as ``module.`` that all names share, and knows the layer
    names of well-known checkpoints (``Network.aliases``). BatchNorm's batch counters may be missing, as in old
    checkpoints. On failure the model is as it was.

    Args:
        model: any module; it keeps its dtype and device.
        state: names to tensors.
        source: where the weights come from, for the message.

    Raises:
        InputError: no mapping of tensors; missing or unexpected names, wrong shapes, or whole numbers where weights are
            floating, in one line.

    >>> net = nn.Linear(2, 2)
    >>> fit_state(net, {"state_dict": {"module.weight": torch.eye(2), "module.bias": torch.zeros(2)}})
    >>> net.weight.tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """
    given = _stripped(_tensors(state, source))
    wanted = model.state_dict()
    names = _stripped({name: name for name in wanted})
    given = min(_spellings(model, given), key=lambda spelled: len(spelled.keys() ^ names.keys()))
    counters = {name: torch.zeros_like(wanted[full]) for name, full in names.items() if name.endswith("_tracked")}
    given = {**counters, **given}
    faults = _faults(given, {name: wanted[full] for name, full in names.items()})
    if faults:
        inner = getattr(model, "model", model)  # of a wrapper that the caller knows nothing about
        kind = type(inner if isinstance(inner, nn.Module) else model).__name__
        rule = f"the {len(names)} tensors of this {kind}; {'; '.join(faults)}"
        raise InputError(source, f"{len(given)} tensors", rule)
    model.load_state_dict({full: given[name] for name, full in names.items()})


def _tensors(state: Any, source: str) -> dict[str, Tensor]:
    rule = "a mapping of parameter names to tensors"
    for _ in range(len(_NESTS)):
        if not isinstance(state, Mapping):
            raise InputError(source, type(state).__name__, rule)
        nest = next((key for key in _NESTS if isinstance(state.get(key), Mapping)), None)
        if nest is None:
            break
        state = state[nest]
    odd = [name for name, value in state.items() if not (isinstance(name, str) and isinstance(value, Tensor))]
    if odd or not state:
        raise InputError(source, f"no tensor under {odd[0]!r}" if odd else "nothing", rule)
    return dict(state)


def _stripped(named: dict[str, T]) -> dict[str, T]:
    """The names without the prefixes that all of them share."""
    while prefix := next((p for p in _PREFIXES if named and all(name.startswith(p) for name in named)), None):
        named = {name.removeprefix(prefix): value for name, value in named.items()}
    return named


def _spellings(model: nn.Module, given: dict[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    """The names as they are, and as the network's aliases have them."""
    yield given
    inner = next((module for module in model.modules() if isinstance(module, Network)), None)
    if inner is not None:
        renamed = {_renamed(name, inner.aliases): value for name, value in given.items()}
        if len(renamed) == len(given):
            yield renamed


def _renamed(name: str, aliases: Mapping[str, str]) -> str:
    return ".".join(part for part in (aliases.get(part, part) for part in name.split(".")) if part)


def _faults(given: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> list[str]:
    shapes = [
        f"{name} {tuple(given[name].shape)} instead of {tuple(value.shape)}"
        for name, value in wanted.items()
        if name in given and given[name].shape != value.shape
    ]
    kinds = [
        f"{name} {str(given[name].dtype).removeprefix('torch.')}"
        for name, value in wanted.items()
        if name in given and value.is_floating_point() and not given[name].is_floating_point()
    ]
    lists = {
        "missing": [name for name in wanted if name not in given],
        "unexpected": [name for name in given if name not in wanted],
        "wrong shape": shapes,
        "not floating": kinds,
    }
    return [_listed(title, entries) for title, entries in lists.items() if entries]


def _listed(title: str, entries: list[str]) -> str:
    more = f" and {len(entries) - _SHOWN} more" if len(entries) > _SHOWN else ""
    return f"{len(entries)} {title}: {', '.join(entries[:_SHOWN])}{more}"
