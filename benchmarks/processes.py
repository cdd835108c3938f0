"""Training and judging with one process and with two: seconds, and whether the outcomes are those of one.

    python benchmarks/processes.py [--rounds 3] [--epochs 3] [--images 360] [--out FILE]

Every process has one thread. Processes that share a core, as two hardware threads of one do, cannot be twice as fast.
PGD-AT on digits, and ``standard`` on its test images; both through the command line, start of the processes apart.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from timing import pin, report


def command(*words: str) -> None:
    one_thread = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[1] / "src")}
    subprocess.run(
        [sys.executable, "-m", "deconfound", *words, "--quiet"], check=True, env=one_thread, stdout=subprocess.DEVNULL
    )


def trained(run: Path, processes: int, epochs: int) -> float:
    """Seconds of the epochs, as the run's record has them."""
    setting = ["--set", f"epochs={epochs}", "--devices", str(processes), "--accelerator", "cpu"]
    command("train", "pgd-at", "--data", "digits", "--out", str(run), *setting)
    return json.loads((run / "record.json").read_text())["seconds"]


def judged(run: Path, processes: int, images: int, out: Path) -> tuple[float, list]:
    """Seconds of the attacks, and every outcome."""
    asked = ["--suite", "standard", "-n", str(images), "--devices", str(processes)]
    command("evaluate", str(run), *asked, "--out", str(out), "--overwrite")
    record = json.loads(out.read_text())
    outcomes = [(one["index"], one["prediction"], one["broken_by"]) for one in record["outcomes"]]
    return record["seconds"], outcomes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--images", type=int, default=360)
    parser.add_argument("--out")
    options = parser.parse_args()
    pin(1)
    seconds: dict[str, dict[int, list[float]]] = {"training": {1: [], 2: []}, "judging": {1: [], 2: []}}
    outcomes = []
    with tempfile.TemporaryDirectory() as folder:
        for number in range(options.rounds):
            for processes in (1, 2) if number % 2 == 0 else (2, 1):
                run = Path(folder, f"{number}-{processes}")
                seconds["training"][processes].append(trained(run, processes, options.epochs))
            for processes in (1, 2) if number % 2 == 0 else (2, 1):
                took, found = judged(Path(folder, "0-1"), processes, options.images, Path(folder, "judged.json"))
                seconds["judging"][processes].append(took)
                outcomes.append(found)
    figures = {
        f"{job}, {processes} process{'es' * (processes > 1)}": {
            "median_seconds": statistics.median(found[processes]),
            "ratio_to_peer": statistics.median(a / b for a, b in zip(found[processes], found[1], strict=True)),
        }
        for job, found in seconds.items()
        for processes in found
    }
    same = all(found == outcomes[0] for found in outcomes)
    report("Processes", figures | {"same_outcomes": same, "cores": os.cpu_count()}, options.out)


if __name__ == "__main__":
    main()
