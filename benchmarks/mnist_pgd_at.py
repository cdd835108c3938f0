"""PGD-AT at 0.3 on MNIST, judged by PGD-40 on all test images.

    python benchmarks/mnist_pgd_at.py --data FOLDER [--run RUN] [--set KEY=VALUE ...] [--threads 2]
                                      [--autoattack 500] [--out FILE]

Trains the recipe as it is (weights selected on a validation split), then attacks the test images once. An existing RUN
is judged as it is. PGD-40 is an upper bound: AutoAttack in its official form (pyautoattack, standard version, seed 0)
on the first test images stands beside it.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import torch

from deconfound import EvaluationRecord, TrainingRecord
from deconfound.attacks import FGSM, PGD
from deconfound.data import load
from deconfound.evaluation import Probes, Provenance, evaluate
from deconfound.functional.statistics import wilson_interval
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


def autoattack(run: Path, data: str, count: int) -> dict:
    """What the official AutoAttack leaves of the first test images."""
    from pyautoattack import AutoAttack

    loaded, test = load_run(run), load(data, parts=("test",)).test
    batch = next(test.batches([torch.arange(count)]))
    attack = AutoAttack(loaded.model, norm="Linf", eps=loaded.recipe.eps, seed=0)
    found = attack.run_standard_evaluation(batch.images, batch.labels, batch_size=count)[0]
    with torch.no_grad():
        left = int((loaded.model(found).argmax(1) == batch.labels).sum())
    interval = wilson_interval(left, count)
    return {"n": count, "seed": 0, "robust_accuracy": left / count, "robust_interval": interval}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True)
    parser.add_argument("--run", type=Path)
    parser.add_argument("--recipe", default="pgd-at")
    parser.add_argument("--set", action="append", default=[])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--autoattack", type=int, default=500, help="so many images; 0 leaves it out")
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
    if options.autoattack:
        found["autoattack"] = autoattack(run, options.data, options.autoattack)
    report("PGD-AT on MNIST", found, options.out)


if __name__ == "__main__":
    main()
