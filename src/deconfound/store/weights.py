"""Weights as safetensors; foreign state dicts are opened as plain tensors only, never as arbitrary pickles."""

from __future__ import annotations

import hashlib
import json
import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from deconfound.errors import InputError
from deconfound.store.atomic import write_bytes

# One key only: the format keeps several in no fixed order, and identical runs must give identical bytes.
_KEY = "deconfound"


def write_weights(path: str | Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> None:
    """Write tensors and metadata (as sorted JSON under one key); equal content gives equal bytes."""
    plain = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    write_bytes(path, save(plain, {_KEY: json.dumps(dict(metadata), sort_keys=True)}))


def read_weights(path: str | Path, field: str = "weights") -> tuple[dict[str, Any], dict[str, Any]]:
    """Tensors and metadata of a safetensors file, or of a state dict saved by torch (without metadata).

    A torch file may nest its tensors, e.g. under ``state_dict``; it is returned as it is.

    Raises:
        InputError: no such file, a damaged one, or a pickle that holds more than plain tensors.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(field, str(path), "a file of weights (safetensors, or a state dict saved by torch)")
    with path.open("rb") as file:
        head = file.read(9)
    is_safetensors = path.suffix == ".safetensors" or (len(head) == 9 and head[8:9] == b"{")
    return _read_safetensors(path, field) if is_safetensors else (_read_torch(path, field), {})


def _read_safetensors(path: Path, field: str) -> tuple[dict[str, Any], dict[str, Any]]:
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
            metadata = json.loads((file.metadata() or {}).get(_KEY, "{}"))
    except (SafetensorError, ValueError) as error:
        raise InputError(field, str(path), f"an intact safetensors file ({error})") from None
    return tensors, metadata


def _read_torch(path: Path, field: str) -> dict[str, Any]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of unusual pickles: an error says enough
            found = torch.load(path, weights_only=True, map_location="cpu")
    except pickle.UnpicklingError:
        rule = (
            "plain tensors, as torch.save(model.state_dict(), FILE) leaves them; this is no state dict, or a pickle of "
            "objects that could run code, and is not opened"
        )
        raise InputError(field, str(path), rule) from None
    except (RuntimeError, EOFError, ValueError, OSError, AttributeError, LookupError) as error:
        reason = " ".join(f"{type(error).__name__} {error}".split())[:120]
        raise InputError(field, str(path), f"an intact file of tensors ({reason})") from None
    if not isinstance(found, Mapping):
        raise InputError(field, str(path), f"a state dict of tensors; this file holds a {type(found).__name__}")
    return dict(found)


def digest_tensors(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, types, shapes and values, independent of order and device."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
