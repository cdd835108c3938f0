"""Hours of every method on ImageNet, on paper: from a published throughput of standard training.

    python benchmarks/imagenet.py [--assumptions FILE] [--cost benchmarks/results/cost.json] [--out FILE]

    hours = images epochs / throughput times ratio / 3600, summed over the stages of a method

where the ratio to standard training is given twice: as counted from the equations (``cost.py``), and as measured there
at 1000 classes. PGD has ten steps and CiiV nine looks in both.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from cost import INVERSION, LOOPS, PASSES, STEPS, TRAIN
from timing import report

HERE = Path(__file__).parent
CLASSES = "1000 classes"


def measured_ratios(record: Mapping[str, Any]) -> dict[str, float]:
    """Of each method to standard training, where there are as many classes."""
    points = record["figures"]["points"]
    found = next(figures for point, figures in points.items() if point.endswith(CLASSES))
    return {method: one["ratio_to_peer"] for method, one in found.items()}


def hours(stages: Mapping[str, int], ratios: Mapping[str, float], images: int, throughput: float) -> float:
    return sum(images * epochs / throughput * ratios[stage] for stage, epochs in stages.items()) / 3600


def plan(assumed: Mapping[str, Any], ratios: Mapping[str, Mapping[str, float]]) -> dict[str, dict[str, float]]:
    """Hours of every method: by machine, and by where the ratio comes from."""
    found: dict[str, dict[str, float]] = {}
    for method in PASSES:
        stages = assumed["stages"].get(method, {method: assumed["default"]})
        found[method] = {
            f"{machine['gpus']} GPUs, {origin}": hours(stages, ratio, assumed["images"], machine["images_per_second"])
            for machine in assumed["machines"]
            for origin, ratio in ratios.items()
        }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--assumptions", default=HERE / "imagenet.yaml", type=Path)
    parser.add_argument("--cost", default=HERE / "results" / "cost.json", type=Path)
    parser.add_argument("--out")
    options = parser.parse_args()
    assumed = yaml.safe_load(options.assumptions.read_text())
    counted = {method: passes / TRAIN for method, passes in PASSES.items()}
    ratios = {"counted": counted, "measured": measured_ratios(json.loads(options.cost.read_text()))}
    setting = {"attack_steps": STEPS, "inversion_steps": INVERSION, "looks": LOOPS}
    report("ImageNet, on paper", {"hours": plan(assumed, ratios), "assumed": assumed, "setting": setting}, options.out)


if __name__ == "__main__":
    main()
