"""Methods against their fair controls on MNIST at 0.3: clean, PGD-40, the standard suite, the defence's own attacks.

    python benchmarks/mnist_methods.py train --data MNIST --runs FOLDER [--recipes ...] [--seeds ...] [--threads 1]
    python benchmarks/mnist_methods.py judge --data MNIST --runs FOLDER ... [-n 500]
    python benchmarks/mnist_methods.py table --runs FOLDER ... [--out FILE]

``train`` trains every recipe as it is, with every seed, into FOLDER/RECIPE-SEED; all take the same number of epochs and
the same inner attack. ``judge`` runs the suite ``adaptive`` on the first n test images: its first four attacks are
AutoAttack's, so what they leave is the accuracy under ``standard``; and PGD-40 on all test images. Both skip what is
done and go on with what was interrupted. ``table`` collects accuracies with their intervals and tests each method
against its control on the same images, seed by seed.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from deconfound import EvaluationRecord, TrainingRecord
from deconfound.functional.statistics import holm, mcnemar, paired_interval, wilson_interval
from deconfound.recipes import train
from deconfound.recipes.evaluating import Judging
from deconfound.recipes.targets import Target, evaluate_target
from deconfound.store import RunFolder, write_text
from mnist_pgd_at import judge as judge_by_pgd
from timing import pin, report

CONTROLS = {"pgd-at": "standard", "causaladv-m": "pgd-at", "causaladv-t": "trades"}
"""Each method's fair control: the same epochs and the same attack."""


def runs_of(options: argparse.Namespace) -> Iterator[tuple[str, int, Path]]:
    for seed in options.seeds:
        for recipe in options.recipes:
            yield recipe, seed, Path(options.runs) / f"{recipe}-{seed}"


def train_all(options: argparse.Namespace) -> None:
    for recipe, seed, run in runs_of(options):
        if not RunFolder(run).record.exists():
            train(recipe, data=options.data, out=run, changes=[f"seed={seed}", *options.set], resume=True)


def judge_all(options: argparse.Namespace) -> None:
    for _, _, run in runs_of(options):
        if not RunFolder(run).record.exists():
            continue
        adaptive, pgd = run / f"adaptive-{options.n}.json", run / "pgd-40.json"
        if not adaptive.exists():
            target = Target(target=str(run), data=options.data, n=options.n)
            evaluate_target(target, Judging(suite="adaptive", gallery=0), out=adaptive)
        if not pgd.exists():
            write_text(pgd, judge_by_pgd(run, options.data).to_json())


def standing(record: EvaluationRecord, attacks: int | None = None) -> list[bool]:
    """Whether each example withstands the first so many attacks, all by default."""
    counted = {attack.name for attack in record.attacks[:attacks]} | {"clean"}
    return [outcome.broken_by not in counted for outcome in record.outcomes]


def share(right: list[bool]) -> dict:
    return {"accuracy": sum(right) / len(right), "interval": wilson_interval(sum(right), len(right)), "n": len(right)}


def row(run: Path, n: int) -> dict:
    """Everything a table needs of one run."""
    adaptive, pgd = (EvaluationRecord.read(run / name) for name in (f"adaptive-{n}.json", "pgd-40.json"))
    training = TrainingRecord.read(RunFolder(run).record)
    return {
        "clean": {"accuracy": pgd.clean_accuracy, "interval": pgd.clean_interval, "n": pgd.n},
        "pgd-40": {"accuracy": pgd.robust_accuracy, "interval": pgd.robust_interval, "n": pgd.n},
        "standard": share(standing(adaptive, 4)),
        "adaptive": share(standing(adaptive)),
        "survivors": {attack.name: attack.survivors for attack in adaptive.attacks},
        "verdict": {"adaptive": adaptive.verdict.model_dump(), "pgd-40": pgd.verdict.model_dump()},
        "threat": str(adaptive.threat),
        "training_seconds": training.seconds,
        "epochs": training.epochs_run,
        "selected_epoch": training.selected_epoch,
        "model_digest": adaptive.model_digest,
    }


def difference(first: Path, second: Path, n: int) -> dict:
    """A method minus its control under everything either declares, on the same images."""
    a, b = (standing(EvaluationRecord.read(run / f"adaptive-{n}.json")) for run in (first, second))
    ahead, behind = (sum(x and not y for x, y in zip(*pair, strict=True)) for pair in ((a, b), (b, a)))
    return {
        "difference": (ahead - behind) / len(a),
        "interval": paired_interval(ahead, behind, len(a)),
        "p_value": mcnemar(a, b),
    }


def table(options: argparse.Namespace) -> dict:
    done = {(r, s): run for r, s, run in runs_of(options) if (run / f"adaptive-{options.n}.json").exists()}
    rows = {f"{recipe}-{seed}": row(run, options.n) for (recipe, seed), run in done.items()}
    pairs = [(m, c, s) for (m, s) in done if (c := CONTROLS.get(m)) is not None and (c, s) in done]
    found = {f"{m} - {c}, seed {s}": difference(done[m, s], done[c, s], options.n) for m, c, s in pairs}
    for one, adjusted in zip(found.values(), holm([one["p_value"] for one in found.values()]), strict=True):
        one["adjusted_p_value"] = adjusted
    return {"runs": rows, "against_control": found}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", choices=["train", "judge", "table"])
    parser.add_argument("--data")
    parser.add_argument("--runs", required=True)
    recipes = ["standard", "pgd-at", "trades", "causaladv-m", "causaladv-t"]
    parser.add_argument("--recipes", nargs="+", default=recipes)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--set", action="append", default=[])
    parser.add_argument("-n", type=int, default=500)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out")
    options = parser.parse_args()
    pin(options.threads)
    if options.part == "table":
        report("methods on MNIST", table(options), options.out)
    else:
        (train_all if options.part == "train" else judge_all)(options)


if __name__ == "__main__":
    main()
