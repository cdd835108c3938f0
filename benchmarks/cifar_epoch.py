"""CIFAR-10: time and memory of loading the full set, and one epoch of PGD-AT with a narrow ResNet-18.

python benchmarks/cifar_epoch.py --data FOLDER [--width 8] [--steps 2] [--threads 2] [--out FILE]
"""

from __future__ import annotations

import argparse
import resource
import time

from deconfound.data import load
from deconfound.recipes import train
from timing import pin, report


def peak_mebibytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True)
    parser.add_argument("--width", type=int, default=8)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out")
    options = parser.parse_args()
    pin(options.threads)
    before, start = peak_mebibytes(), time.perf_counter()
    data = load(options.data)
    loading = time.perf_counter() - start
    after = peak_mebibytes()
    pixels = sum(part.images.nbytes for part in (data.train, data.test)) / 2**20
    changes = {"epochs": 1, "model_options.width": options.width, "steps": options.steps, "step_size": None}
    record = train("pgd-at", data=options.data, changes=changes | {"lr": 0.05}).record
    found = {
        "images": len(data.train) + len(data.test),
        "loading_seconds": loading,
        "pixels_mebibytes": pixels,
        "peak_mebibytes_before_loading": before,
        "peak_mebibytes_after_loading": after,
        "epoch_seconds": record.seconds,
        "images_per_second": record.images_per_second,
        "parameters": record.parameters,
        "history": record.history,
        "recipe": record.recipe | {"data": record.data},
    }
    report("CIFAR-10, one epoch", found, options.out)


if __name__ == "__main__":
    main()
