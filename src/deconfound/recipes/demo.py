"""The job behind ``deconfound demo``: everything once, on the bundled digits with a planted confounder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from deconfound.core.protocols import Monitor, StochasticClassifier
from deconfound.errors import InputError, require
from deconfound.recipes.analysing import Look, look_into
from deconfound.recipes.evaluating import Judging
from deconfound.recipes.pairing import adjusted, same_attacks, tested
from deconfound.recipes.reporting import results_json
from deconfound.recipes.resolve import read_spec, resolve
from deconfound.recipes.study_analyses import check_library
from deconfound.recipes.targets import Target, evaluate_target
from deconfound.recipes.tour import TOUR, Chapter, Tour
from deconfound.recipes.training import train
from deconfound.records import AnalysisRecord, EvaluationRecord, StudyTest, TrainingRecord
from deconfound.reporting import Lessons, lessons_of, render
from deconfound.reporting.text import count, listing
from deconfound.store import write_text

QUICK, ADAPTIVE, BUDGET = "quick", "adaptive", "demo"
FILES = ("results.json", "report.html")
RUNS = "runs"
TITLE = "deconfound demo: handwritten digits with a planted confounder"


@dataclass(frozen=True, kw_only=True)
class Demonstration:
    """What the demo found and where it lies."""

    evaluations: tuple[EvaluationRecord, ...]
    trainings: tuple[TrainingRecord, ...]
    analyses: tuple[AnalysisRecord, ...]
    lessons: Lessons
    page: Path
    results: Path


@dataclass
class _Notebook:
    """What the tour has found so far; evaluations by recipe and suite."""

    trainings: dict[str, TrainingRecord] = field(default_factory=dict)
    evaluations: dict[tuple[str, str], EvaluationRecord] = field(default_factory=dict)
    analyses: list[AnalysisRecord] = field(default_factory=list)


def demo(
    out: str | Path = "demo", *, overwrite: bool = False, tour: Tour = TOUR, monitor: Monitor | None = None
) -> Demonstration:
    """Train, attack, judge, explain and report on digits with a planted confounder.

    Leaves ``OUT/runs/NAME`` for each method, ``OUT/results.json`` and ``OUT/report.html``.

    Args:
        out: a new or empty folder.
        overwrite: replace the demo that lies there, finished or not.
        tour: what is shown.
        monitor: shows progress.

    Raises:
        InputError: something lies at ``out`` already; a library of an analysis that does not load.
    """
    folder = Path(out)
    _check_free(folder, overwrite=overwrite)
    for kind in dict.fromkeys(kind for chapter in tour.chapters for kind in chapter.analyses):
        check_library(kind)
    found = _Notebook()
    for chapter in tour.chapters:
        _visit(chapter, tour, folder / RUNS, found, monitor)
    evaluations, trainings = tuple(found.evaluations.values()), tuple(found.trainings.values())
    about = (*_shortened(tour, found.trainings), _sizes(tour, evaluations))
    lessons = lessons_of(evaluations, found.analyses, against_controls(tour, found.evaluations), trainings, about)
    results, page = (folder / name for name in FILES)
    write_text(page, render(evaluations, trainings, TITLE, analyses=found.analyses, lessons=lessons))
    write_text(results, results_json(evaluations, found.analyses, lessons.learned))
    return Demonstration(
        evaluations=evaluations,
        trainings=trainings,
        analyses=tuple(found.analyses),
        lessons=lessons,
        page=page,
        results=results,
    )


def _visit(chapter: Chapter, tour: Tour, runs: Path, found: _Notebook, monitor: Monitor | None) -> None:
    """Train a method, judge it by both suites, and look into it."""
    run, names = runs / chapter.folder, {one.recipe: one.folder for one in tour.chapters}
    trained = train(
        chapter.recipe,
        data=tour.data,
        out=run,
        changes=chapter.changes,
        stages={"base": runs / names[chapter.base]} if chapter.base else None,
        overwrite=run.exists(),
        monitor=monitor,
    )
    found.trainings[chapter.recipe] = trained.record
    random = isinstance(trained.model, StochasticClassifier)
    n = tour.n_of_random if random else tour.n
    targets = {} if random else {QUICK: Target(target=str(run), n=tour.n_of_quick)}  # quick would be fooled
    for suite, target in (targets | {ADAPTIVE: Target(target=str(run), n=n, sample=tour.sample)}).items():
        # One curve for each network is enough, with the suite whose verdict counts.
        judging = Judging(suite=suite, budget=BUDGET, curve=suite == ADAPTIVE)
        record, _ = evaluate_target(target, judging, monitor=monitor)
        found.evaluations[chapter.recipe, suite] = record
    for kind, settings in chapter.analyses.items():
        look = Look(run=str(run), kind=kind, **settings)
        found.analyses.append(look_into(look, monitor=monitor)[0])


def against_controls(tour: Tour, evaluations: dict[tuple[str, str], EvaluationRecord]) -> list[StudyTest]:
    """Each method with a control against it, on the images that both saw; Holm over the tests of a suite.

    Args:
        tour: says who is compared with whom.
        evaluations: by recipe and suite.
    """
    found = []
    for suite in (QUICK, ADAPTIVE):
        pairs = [
            (one, (evaluations[one.recipe, suite], evaluations[one.control, suite]))
            for one in tour.chapters
            if (one.recipe, suite) in evaluations and (one.control, suite) in evaluations
        ]
        tests = adjusted([tested(one.recipe, a, one.control, b) for one, (a, b) in pairs])
        found += [
            StudyTest(
                method=one.recipe,
                control=one.control,
                question=suite,
                seed=int(a.training.get("seed", 0)),
                same_attacks=same_attacks(a, b),
                test=test,
            )
            for (one, (a, b)), test in zip(pairs, tests, strict=True)
        ]
    return found


def _shortened(tour: Tour, trainings: dict[str, TrainingRecord]) -> list[str]:
    """Which trainings are shorter than their recipes have them."""
    found: dict[tuple[int, int], list[str]] = {}
    for chapter in tour.chapters:
        plain = trainings[chapter.recipe].recipe
        usual = resolve(read_spec(chapter.recipe), data=tour.data, family=plain["family"]).epochs
        if plain["epochs"] != usual:
            found.setdefault((plain["epochs"], usual), []).append(chapter.recipe)
    return [
        f"Shortened: {listing(names)} trained for {count(epochs, 'epoch')}, where"
        f" {'their recipes have' if len(names) > 1 else 'its recipe has'} {usual}."
        for (epochs, usual), names in found.items()
    ]


def _sizes(tour: Tour, evaluations: Sequence[EvaluationRecord]) -> str:
    """On how many images each suite ran."""
    sizes = {(one.suite, one.n): None for one in evaluations}
    seen = listing([f"{suite} on {n}" for suite, n in sizes])
    return (
        f"Images: {seen}; for {ADAPTIVE} they were drawn with seed {tour.sample}, fewer for a random network, which is"
        " asked many times about each. A longer look: deconfound evaluate RUN."
    )


def _check_free(folder: Path, *, overwrite: bool) -> None:
    require(not folder.exists() or folder.is_dir(), "out", str(folder), "a folder; a file of this name exists")
    found = {entry.name for entry in folder.iterdir() if not entry.name.startswith(".")} if folder.exists() else set()
    if found - {*FILES, RUNS}:
        raise InputError("out", str(folder), "a new or empty folder; this one holds something else")
    require(overwrite or not found, "out", str(folder), "a new folder; a demo lies here (--overwrite replaces it)")
