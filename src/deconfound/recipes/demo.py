"""The job behind ``deconfound demo``: everything once, on the bundled digits."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from deconfound.core.protocols import Monitor, StochasticClassifier
from deconfound.errors import InputError, require
from deconfound.recipes.evaluating import Judging
from deconfound.recipes.reporting import results_json
from deconfound.recipes.resolve import names
from deconfound.recipes.targets import Target, evaluate_target
from deconfound.recipes.training import train
from deconfound.records import EvaluationRecord, TrainingRecord
from deconfound.reporting import render
from deconfound.store import write_text

# In the order of the story; those that the library does not have (yet) are left out.
STORY = ("standard", "pgd-at", "causaladv-m", "ciiv", "cafe")
SUITE = "fast"
SUITE_OF_RANDOM = "adaptive"
FILES = ("results.json", "report.html")
RUNS = "runs"


@dataclass(frozen=True, kw_only=True)
class Demonstration:
    """What the demo found and where it lies."""

    evaluations: tuple[EvaluationRecord, ...]
    trainings: tuple[TrainingRecord, ...]
    page: Path


def demo(out: str | Path = "demo", *, overwrite: bool = False, monitor: Monitor | None = None) -> Demonstration:
    """Train, attack, judge and report on digits.

    Leaves ``OUT/runs/NAME`` for each defence, ``OUT/results.json`` and ``OUT/report.html``.

    Raises:
        InputError: something lies at ``out`` already.
    """
    folder = Path(out)
    _check_free(folder, overwrite=overwrite)
    evaluations, trainings = [], []
    for name in (name for name in STORY if name in names()):
        run = folder / RUNS / name
        trained = train(name, data="digits", out=run, overwrite=run.exists(), monitor=monitor)
        target = Target(target=str(run))
        random = isinstance(trained.model, StochasticClassifier)
        judging = Judging(suite=SUITE_OF_RANDOM if random else SUITE, budget="demo")
        record, _ = evaluate_target(target, judging, monitor=monitor)
        evaluations.append(record)
        trainings.append(trained.record)
    results, page = (folder / name for name in FILES)
    write_text(page, render(evaluations, trainings, title="deconfound demo: handwritten digits"))
    write_text(results, results_json(evaluations))
    return Demonstration(evaluations=tuple(evaluations), trainings=tuple(trainings), page=page)


def _check_free(folder: Path, *, overwrite: bool) -> None:
    require(not folder.exists() or folder.is_dir(), "out", str(folder), "a folder; a file of this name exists")
    found = {entry.name for entry in folder.iterdir() if not entry.name.startswith(".")} if folder.exists() else set()
    if found - {*FILES, RUNS}:
        raise InputError("out", str(folder), "a new or empty folder; this one holds something else")
    require(overwrite or not found, "out", str(folder), "a new folder; a demo lies here (--overwrite replaces it)")
