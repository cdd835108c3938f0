"""Which examples form which batch: a pure function of seed, epoch and process."""

from __future__ import annotations

import torch
from torch import Tensor

from deconfound.errors import require
from deconfound.functional.hashing import name_key


def steps_per_epoch(count: int, batch_size: int) -> int:
    """Full batches in an epoch; a set smaller than a batch makes one batch.

    The examples left over differ from epoch to epoch, so none is left out systematically, every step has the same
    weight, and BatchNorm never meets the single image that a last, short batch may hold.
    """
    return max(1, count // batch_size)


def check_shares(batch_size: int, world: int) -> None:
    """A global batch is split evenly over processes.

    Raises:
        InputError: it cannot be.
    """
    require(batch_size % world == 0, "batch_size", batch_size, f"a multiple of the number of processes, {world}")


def epoch_plan(count: int, batch_size: int, seed: int, epoch: int, *, rank: int = 0, world: int = 1) -> list[Tensor]:
    """Positions of this process's share of each batch, in order.

    The permutation is the same on every process; a global batch is split into equal parts, so any number of processes
    sees the same global batches.

    >>> [part.tolist() for part in epoch_plan(4, 2, seed=0, epoch=0)] == [
    ...     (a.tolist() + b.tolist())
    ...     for a, b in zip(*[epoch_plan(4, 2, seed=0, epoch=0, rank=r, world=2) for r in (0, 1)])
    ... ]
    True
    """
    batch_size = min(batch_size, count)
    check_shares(batch_size, world)
    generator = torch.Generator().manual_seed(name_key("epoch order", seed, epoch))
    order = torch.randperm(count, generator=generator)
    size = batch_size // world
    starts = range(0, steps_per_epoch(count, batch_size) * batch_size, batch_size)
    return [order[start + rank * size : start + (rank + 1) * size] for start in starts]
