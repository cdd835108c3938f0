"""Several processes that share an evaluation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

from lightning_fabric import Fabric
from torch import distributed

from deconfound.recipes.compute import Compute

# A process that ends is noticed at once, so this bounds nothing but work.
PATIENCE = timedelta(days=30)


class FabricCrew:
    """The processes that Fabric has launched.

    They meet by gloo whatever moves tensors, and wait for each other as long as it takes: the last piece of one process
    may be hours longer than that of another.
    """

    def __init__(self, fabric: Fabric) -> None:
        self.rank, self.size = fabric.global_rank, fabric.world_size
        self._group = distributed.new_group(backend="gloo", timeout=PATIENCE) if self.size > 1 else None

    def gather(self, mine: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
        """What every process handed in, in the order of their ranks."""
        if self.size == 1:
            return [mine]
        found: list[Any] = [None] * self.size
        distributed.all_gather_object(found, dict(mine), group=self._group)
        return found


def launched(compute: Compute) -> Fabric | None:
    """The engine of several processes, launched; None for one process.

    Raises:
        InputError: settings that Fabric refuses.
    """
    if compute.alone:
        return None
    fabric = compute.fabric("32-true")
    fabric.launch()
    return fabric
