"""Counter-based random bits: the same key and position give the same bits on every device.

Shapes: B examples.
"""

from __future__ import annotations

import hashlib
import math

import torch
from torch import Tensor

# splitmix64 (Steele, Lea & Flood 2014, "Fast splittable pseudorandom number generators").
GOLDEN = 0x9E3779B97F4A7C15
_FIRST = 0xBF58476D1CE4E5B9
_SECOND = 0x94D049BB133111EB
_MASK = (1 << 64) - 1


def signed(value: int) -> int:
    """A 64-bit pattern as the int64 that torch stores it in."""
    value &= _MASK
    return value - (1 << 64) if value >> 63 else value


def name_key(*parts: int | str) -> int:
    """A stable signed 64-bit key for a sequence of names and numbers."""
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in parts)
    return signed(int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little"))


def _shift(bits: Tensor, count: int) -> Tensor:
    return (bits >> count).bitwise_and_((1 << (64 - count)) - 1)


def mix64(state: Tensor) -> Tensor:
    """splitmix64's finaliser, elementwise on int64 bit patterns (multiplication wraps)."""
    bits = state ^ _shift(state, 30)
    bits.mul_(signed(_FIRST))
    bits.bitwise_xor_(_shift(bits, 27))
    bits.mul_(signed(_SECOND))
    return bits.bitwise_xor_(_shift(bits, 31))


def random_bits(keys: Tensor, count: int) -> Tensor:
    """``count`` words per key: word j is ``mix64(key + (j + 1) * GOLDEN)``. keys (B,) -> (B, count), int64."""
    steps = torch.arange(1, count + 1, dtype=torch.int64, device=keys.device).mul_(signed(GOLDEN))
    return mix64(keys[:, None] + steps[None, :])


def bits_to_uniform(bits: Tensor, dtype: torch.dtype) -> Tensor:
    """The top bits as numbers in the open interval (0, 1): (k + 1/2) / 2^m, 2^-m the dtype's unit of rounding.

    With this m (52 for float64, 23 for float32) every value is exact in its dtype, so neither 0 nor 1 can appear.
    """
    unit = torch.finfo(dtype).eps
    work = torch.float64 if dtype == torch.float64 else torch.float32
    return _shift(bits, 65 - math.frexp(1 / unit)[1]).to(work).add_(0.5).mul_(unit).to(dtype)


def bits_to_uniform_pairs(bits: Tensor) -> Tensor:
    """Two float32 numbers in (0, 1) from the halves of each word, as ``bits_to_uniform``: (..., n) -> (..., 2n)."""
    unit = torch.finfo(torch.float32).eps
    halves = bits.view(torch.int32)
    return (halves >> 9).bitwise_and_((1 << 23) - 1).to(torch.float32).add_(0.5).mul_(unit)


def uniform_apart(keys: Tensor, count: int) -> Tensor:
    """The numbers of ``bits_to_uniform_pairs(random_bits(keys, ...))``, each from a hash of its own: (B, count).

    Twice the hashing, and nothing that has to be kept between two steps, so that a compiler makes one loop of it.
    """
    unit = torch.finfo(torch.float32).eps
    place = torch.arange(count, dtype=torch.int64, device=keys.device)
    words = mix64(keys[:, None] + (((place >> 1) + 1) * signed(GOLDEN))[None])
    half = (words >> (9 + 32 * (place & 1))[None]) & ((1 << 23) - 1)
    return (half.to(torch.float32) + 0.5) * unit
