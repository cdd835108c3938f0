"""Which examples form which batch: a pure function of seed, epoch and process."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

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


def check_batches(players: Mapping[str, nn.Module], count: int, batch_size: int, world: int) -> None:
    """A process's share of a batch is even, and not a single image where a trained player has BatchNorm.

    Of one image BatchNorm has no variance (or that of its places alone, for maps), and torch refuses vectors of it.

    Args:
        players: by name; those without a parameter to train are evaluated, and pass.
        count: of training images.
        batch_size: global.
        world: processes.

    Raises:
        InputError: it is uneven or too small.
    """
    size = min(batch_size, count)
    check_shares(size, world)
    if size // world > 1:
        return
    name = next((name for name, player in players.items() if _is_trained(player) and _normalises(player)), None)
    field, shown = ("batch_size", batch_size) if batch_size <= count else ("data", f"{count} training images")
    least = f"at least {2 * world}, two images for each process, because BatchNorm in {name} normalises over them"
    require(name is None, field, shown, least)


def _is_trained(player: nn.Module) -> bool:
    return any(parameter.requires_grad for parameter in player.parameters())


def _normalises(player: nn.Module) -> bool:
    return any(isinstance(module, _BatchNorm) for module in player.modules())


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
