"""PGD-AT at 0.3 on MNIST, judged by PGD-40 on all test images.

    python benchmarks/mnist_pgd_at.py --data FOLDER [--run RUN] [--set KEY=VALUE ...] [--threads 2] [--out FILE]

Trains the recipe as it is (weights selected on a validation split), then attacks the test images once. An existing RUN
is judged as it is.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from deconfound import EvaluationRecord, TrainingRecord
from deconfound.attacks import FGSM, PGD
from deconfound.data import load
from deconfound.evaluation import Probes, Provenance, evaluate
from deconfound.recipes import train
from deconfound.recipes.loading import load_run
from deconfound.recipes.machine import describe
from deconfound.store import RunFolder
from timing import pin, report


def judge(run: Path, data: str) -> EvaluationRecord:
    loaded, test = load_run(run), load(data).test
    threat = loaded.recipe.threat
    return evaluate(
        loaded.model,
        test,
        threat=threat,
        attacks=[PGD(threat, steps=40)],
        suite="pgd-40",
        probes=Probes(single_step=FGSM, iterative=lambda at: PGD(at, steps=20)),
        curve_attack=lambda at: PGD(at, steps=20),
        gallery=0,
        provenance=Provenance(
            model=loaded.recipe.model,
            model_digest=loaded.digest,
            defence=loaded.recipe.recipe,
            data=test.name,
            data_digest=test.digest(),
            class_names=test.class_names,
            machine=describe(),
        ),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True)
    parser.add_argument("--run", type=Path)
    parser.add_argument("--recipe", default="pgd-at")
    parser.add_argument("--set", action="append", default=[])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out")
    options = parser.parse_args()
    pin(options.threads)
    run = options.run or Path(tempfile.mkdtemp()) / "run"
    if not RunFolder(run).record.exists():
        train(options.recipe, data=options.data, out=run, changes=options.set, resume=True)
    training = TrainingRecord.read(RunFolder(run).record)
    record = judge(run, options.data)
    found = {
        "n": record.n,
        "seed": record.seed,
        "threat": str(record.threat),
        "suite": record.suite,
        "attacks": [attack.settings for attack in record.attacks],
        "clean_accuracy": record.clean_accuracy,
        "clean_interval": record.clean_interval,
        "robust_accuracy": record.robust_accuracy,
        "robust_interval": record.robust_interval,
        "verdict": record.verdict.model_dump(),
        "training_seconds": training.seconds,
        "training_images_per_second": training.images_per_second,
        "selected_epoch": training.selected_epoch,
        "recipe": training.recipe | {"data": training.data},
        "recipe_digest": training.recipe_digest,
        "model_digest": record.model_digest,
        "data_digest": record.data_digest,
    }
    report("PGD-AT on MNIST", found, options.out)


if __name__ == "__main__":
    main()
