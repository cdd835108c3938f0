"""Random kills during training: every resumed run must end in the bytes of the uninterrupted one.

    python benchmarks/kill_resume.py [--kills 20] [--recipe pgd-at] [--data digits] [--set KEY=VALUE ...]
                                     [--checkpoint-seconds 0] [--seed 0] [--folder DIR] [--out FILE]

First one training without interruption, timed. Then, for each kill, a fresh run: a process of its own is started,
killed (SIGKILL) at a moment uniform in the duration of the uninterrupted run, counted from the making of the run folder
to the last file in it, resumed with ``--resume`` until it is done, and its weights and metrics are compared byte by
byte. One line per kill, then a summary as JSON; exit code 1 if any run differs.

With ``--checkpoint-seconds 0`` every step is saved, so kills fall into saving more often than anywhere else; with more,
resuming repeats work.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from timing import report

COMPARED = ("model.safetensors", "players.safetensors", "metrics.jsonl")
ATTEMPTS = 3  # a resumed run is not killed again; more attempts mean that resuming itself fails


def start(run: Path, options: argparse.Namespace, *more: str) -> subprocess.Popen[str]:
    """A training in a process of its own, with one thread so that no machine's load changes the sums."""
    settings = [f"--set={change}" for change in options.set]
    command = [sys.executable, "-m", "deconfound", "train", options.recipe, "--data", options.data, "--out", str(run)]
    saving = ["--checkpoint-seconds", str(options.checkpoint_seconds), "--quiet"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [*command, *settings, *saving, *more],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for(path: Path, process: subprocess.Popen[str]) -> float:
    """The moment when a file appears, or when the process ends without it."""
    while not path.exists() and process.poll() is None:
        time.sleep(0.002)
    return time.perf_counter()


def uninterrupted(run: Path, options: argparse.Namespace) -> float:
    """Train without a kill; returns the seconds from the first file in the run folder to the last."""
    process = start(run, options)
    begin = wait_for(run / "recipe.yaml", process)
    end = wait_for(run / "record.json", process)
    _, errors = process.communicate()
    if process.returncode:
        sys.exit(f"the uninterrupted training failed: {errors}")
    return end - begin


def lines(path: Path) -> int:
    return len(path.read_text().splitlines()) if path.exists() else 0


def state(run: Path) -> str:
    """What the kill left behind."""
    if (run / "record.json").exists():
        return "finished"
    if not (run / "recipe.yaml").exists():
        return "nothing yet"
    saved = "with" if (run / "last.ckpt").exists() or (run / "previous.ckpt").exists() else "without"
    return f"epoch {lines(run / 'metrics.jsonl') + 1}, {saved} checkpoint"


def equal(first: Path, second: Path) -> bool:
    return first.is_file() and first.read_bytes() == second.read_bytes()


def killed(run: Path, moment: float, whole: Path, options: argparse.Namespace) -> dict[str, Any]:
    """One run, killed ``moment`` seconds after its first file and resumed; how it went."""
    process = start(run, options)
    wait_for(run / "recipe.yaml", process)
    try:
        process.communicate(timeout=moment)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
    left, code, attempts = state(run), 1, 0
    while code and attempts < ATTEMPTS:
        attempts += 1
        again = start(run, options, "--resume")
        _, errors = again.communicate()
        code = again.returncode
    different = [name for name in COMPARED if not equal(run / name, whole / name)]
    return {
        "moment": moment,
        "killed": process.returncode < 0,
        "left": left,
        "attempts": attempts,
        "error": errors.strip() if code else "",
        "identical": not different,
        "different": different,
    }


def shown(number: int, row: dict[str, Any]) -> str:
    verdict = "identical" if row["identical"] else f"DIFFERENT: {', '.join(row['different'])} {row['error']}"
    how = "killed" if row["killed"] else "was done"
    return f"{number:>4}  {row['moment']:7.2f} s  {how:<8}  {row['left']:<32}  {verdict}"


def rows(folder: Path, options: argparse.Namespace) -> tuple[float, list[dict[str, Any]]]:
    """Seconds without interruption, and one row per kill."""
    seconds = uninterrupted(folder / "whole", options)
    print(f"uninterrupted: {seconds:.2f} s\nkill    moment  process   left behind                       after resuming")
    moments, found = random.Random(options.seed), []
    for number in range(1, options.kills + 1):
        run = folder / f"kill-{number}"
        found.append(killed(run, moments.uniform(0, seconds), folder / "whole", options))
        print(shown(number, found[-1]), flush=True)
    return seconds, found


def parsed(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--recipe", default="pgd-at")
    parser.add_argument("--data", default="digits")
    parser.add_argument("--set", action="append", default=[])
    parser.add_argument("--checkpoint-seconds", type=float, default=0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="keeps the runs; a temporary one by default")
    parser.add_argument("--out")
    options = parser.parse_args(arguments)
    options.set = options.set or ["epochs=10", "steps=2"]
    return options


def main() -> None:
    options = parsed()
    with tempfile.TemporaryDirectory() as temporary:
        seconds, found = rows(options.folder or Path(temporary), options)
    figures = {
        "recipe": options.recipe,
        "data": options.data,
        "changes": options.set,
        "checkpoint_seconds": options.checkpoint_seconds,
        "seed": options.seed,
        "uninterrupted_seconds": seconds,
        "kills": len(found),
        "interrupted": sum(row["killed"] for row in found),
        "with_checkpoint": sum("with checkpoint" in row["left"] for row in found),
        "identical": sum(row["identical"] for row in found),
        "rows": found,
    }
    report("kill and resume", figures, options.out)
    sys.exit(figures["identical"] != len(found))


if __name__ == "__main__":
    main()
