"""Numbers from keys: two ways to the same bits."""

from __future__ import annotations

import torch

from deconfound.functional.hashing import bits_to_uniform_pairs, random_bits, uniform_apart


def test_numbers_by_themselves_are_those_in_pairs():
    keys = torch.tensor([0, 1, -5, 2**62], dtype=torch.int64)
    for count in (1, 2, 7, 64):
        pairs = bits_to_uniform_pairs(random_bits(keys, (count + 1) // 2))[:, :count]
        assert torch.equal(uniform_apart(keys, count), pairs)
