"""Which of the processes of one job this is, also before they have met."""

from __future__ import annotations

import os


def process_rank() -> int:
    """The number that a launcher (torchrun, SLURM, Fabric) gave this process; 0 where there is no launcher."""
    found = next((os.environ[name] for name in ("RANK", "SLURM_PROCID", "LOCAL_RANK") if name in os.environ), "0")
    return int(found) if found.isdigit() else 0


def process_count() -> int:
    """How many processes a launcher has started; 1 where there is no launcher."""
    found = next((os.environ[name] for name in ("WORLD_SIZE", "SLURM_NTASKS") if name in os.environ), "1")
    return int(found) if found.isdigit() else 1
