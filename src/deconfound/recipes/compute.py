"""Where to train: devices and processes, handed to Lightning Fabric."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass

from lightning_fabric import Fabric
from lightning_fabric.accelerators import CPUAccelerator

from deconfound.errors import InputError, require
from deconfound.recipes.processes import process_count

_MOST_PER_CORE = 2  # more only wait for each other, and a slip such as 99 would fill the memory


@dataclass(frozen=True, kw_only=True)
class Compute:
    """Where to train: handed to Lightning Fabric as it is. ``torchrun`` and SLURM set it by the environment."""

    devices: int | str = 1
    num_nodes: int = 1
    strategy: str = "auto"
    accelerator: str = "auto"
    workers: int = 2

    @property
    def alone(self) -> bool:
        """Whether one process does it all: one device, and no launcher around this process."""
        return self.devices in (1, "1") and self.num_nodes == 1 and process_count() == 1

    def fabric(self, precision: str) -> Fabric:
        """The engine.

        Raises:
            InputError: a strategy that shards weights, or settings that Fabric refuses.
        """
        if any(word in self.strategy for word in ("spawn", "fork", "notebook")):
            raise InputError("strategy", self.strategy, "auto or ddp: each process runs the whole command")
        if any(word in self.strategy for word in ("fsdp", "deepspeed")):
            rule = "auto or ddp; covariances, weight norms and folding need whole weights on each device"
            raise InputError("strategy", self.strategy, rule)
        try:
            fabric = Fabric(
                accelerator=self.accelerator,
                devices=self.devices,
                num_nodes=self.num_nodes,
                strategy=self.strategy,
                precision=precision,  # type: ignore[arg-type]
            )
        except (ValueError, TypeError, RuntimeError, ImportError) as error:
            shown = f"{self.accelerator} x {self.devices}"
            raise InputError("devices", shown, f"settings that Fabric accepts ({error})") from None
        most = _MOST_PER_CORE * (os.cpu_count() or 1)
        asked = int(self.devices) if str(self.devices).isdecimal() else 1
        rule = f"at most {most} processes on this machine's processor, {_MOST_PER_CORE} for each core"
        require(asked <= most or not isinstance(fabric.accelerator, CPUAccelerator), "devices", self.devices, rule)
        return fabric


def first_decides(fabric: Fabric, decide: Callable[[], bool]) -> bool:
    """What the first process decides, on all of them; its refusal is raised by all, so that none waits for ever."""
    found: bool | InputError = False
    if fabric.is_global_zero:
        try:
            found = decide()
        except InputError as error:
            found = error
    found = fabric.broadcast(found, src=0)
    if isinstance(found, InputError):
        raise found
    return found
