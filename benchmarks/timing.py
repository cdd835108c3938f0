"""What the benchmarks share: paired rounds, medians, ratios, and the machine they ran on."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from deconfound.recipes.machine import describe


def paired(
    contestants: Mapping[str, Callable[[], object]], rounds: int, *, warm: bool = True
) -> dict[str, list[float]]:
    """Seconds of each contestant in each round; all run in every round, in alternating order, after a warm-up.

    Runs of minutes need none: ``warm=False``.
    """
    for run in contestants.values() if warm else ():
        run()
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for number in range(rounds):
        names = list(contestants) if number % 2 == 0 else list(contestants)[::-1]
        for name in names:
            start = time.perf_counter()
            contestants[name]()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def summary(seconds: Mapping[str, list[float]], peer: str, items: int) -> dict[str, Any]:
    """Medians, items per second, and the median over rounds of the ratio to the peer in the same round."""
    return {
        name: {
            "median_seconds": statistics.median(values),
            "items_per_second": items / statistics.median(values),
            "ratio_to_peer": statistics.median(a / b for a, b in zip(values, seconds[peer], strict=True)),
        }
        for name, values in seconds.items()
    }


def report(title: str, found: Mapping[str, Any], out: str | None) -> None:
    """Print the figures with the machine, and write them as JSON where asked."""
    record = {"benchmark": title, "figures": found, "machine": describe().model_dump()}
    text = json.dumps(record, indent=1, sort_keys=True)
    print(text)
    if out:
        Path(out).write_text(text + "\n")


def pin(threads: int) -> None:
    """Use so many threads, whatever the machine has."""
    torch.set_num_threads(threads)
