"""Randomness per example, keyed by the example's index in its data set and by nothing else.

Shapes: B examples.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from deconfound.errors import require
from deconfound.functional.hashing import bits_to_uniform, bits_to_uniform_pairs, mix64, name_key, random_bits


class Streams:
    """One random stream per example, without state.

    A draw depends on (seed, id, folded names, position) only: not on the batch, its order, the device or the process.
    The same call returns the same numbers; fresh ones come from ``fold``:

    >>> streams = Streams(0, [7, 3])
    >>> torch.equal(streams.uniform((2,))[0], Streams(0, [3, 1, 7]).uniform((2,))[2])
    True
    >>> bool((streams.fold("restart", 1).uniform((2,)) == streams.uniform((2,))).any())
    False
    """

    def __init__(self, seed: int, ids: Iterable[int] | Tensor) -> None:
        if not isinstance(ids, Tensor):
            ids = torch.tensor(list(ids), dtype=torch.int64)
        found = f"{str(ids.dtype).removeprefix('torch.')} of shape {tuple(ids.shape)}"
        require(ids.ndim == 1 and ids.dtype == torch.int64, "ids", found, "a one-dimensional int64 tensor")
        self._keys = mix64(mix64(ids) ^ name_key("seed", seed))

    @classmethod
    def _of(cls, keys: Tensor) -> Streams:
        streams = cls.__new__(cls)
        streams._keys = keys
        return streams

    @classmethod
    def joined(cls, parts: Sequence[Streams]) -> Streams:
        """The streams of several batches, one after the other."""
        return cls._of(torch.cat([part._keys for part in parts]))

    def __len__(self) -> int:
        return self._keys.shape[0]

    @property
    def keys(self) -> Tensor:
        """One key for each example, (B,) int64, for code that hashes by itself."""
        return self._keys

    @property
    def device(self) -> torch.device:
        """Where the numbers are made."""
        return self._keys.device

    def to(self, device: torch.device | str) -> Streams:
        """The same streams with their keys on another device; the numbers do not change."""
        return self._of(self._keys.to(device))

    def __getitem__(self, index: Tensor) -> Streams:
        """The streams of some of the examples: a boolean mask or integer positions."""
        return self._of(self._keys[index])

    def fold(self, *names: int | str) -> Streams:
        """Independent streams for a named purpose, such as ``fold("restart", 2)``."""
        return self._of(mix64(self._keys ^ name_key(*names)))

    def uniform(self, shape: tuple[int, ...] = (), dtype: torch.dtype = torch.float32) -> Tensor:
        """Uniform numbers in the open interval (0, 1), shape (B, *shape)."""
        count = math.prod(shape)
        return bits_to_uniform(random_bits(self._keys, count), dtype).view(len(self), *shape)

    def dense(self, shape: tuple[int, ...]) -> Tensor:
        """Like ``uniform`` in float32, other numbers at half the cost: two from each word."""
        count = math.prod(shape)
        return bits_to_uniform_pairs(random_bits(self._keys, (count + 1) // 2))[:, :count].reshape(len(self), *shape)

    def normal(self, shape: tuple[int, ...] = (), dtype: torch.dtype = torch.float32) -> Tensor:
        """Standard normal numbers by the inverse distribution function, sqrt(2) erfinv(2u - 1), shape (B, *shape)."""
        return torch.erfinv(self.uniform(shape, dtype).mul_(2).sub_(1)).mul_(math.sqrt(2))

    def integers(self, low: int, high: int, shape: tuple[int, ...] = ()) -> Tensor:
        """Integers in [low, high), int64, shape (B, *shape)."""
        require(high > low, "high", high, f"greater than low = {low}")
        scaled = self.uniform(shape, torch.float64).mul_(high - low).floor_()
        return scaled.to(torch.int64).add_(low)

    def levels(self, shape: tuple[int, ...] = ()) -> Tensor:
        """Uniform levels 0..255, uint8, shape (B, *shape): eight from a word, for what is as large as an image."""
        count = math.prod(shape)
        words = random_bits(self._keys, -(-count // 8))
        return words.view(torch.uint8)[:, :count].reshape(len(self), *shape)
