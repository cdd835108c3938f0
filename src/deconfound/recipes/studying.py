"""The job behind ``deconfound study``: methods and controls, trained, judged, analysed, and set side by side."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deconfound.core.protocols import Monitor
from deconfound.errors import require, unknown_name
from deconfound.recipes.analysing import look_into
from deconfound.recipes.compute import Compute
from deconfound.recipes.evaluating import Judging
from deconfound.recipes.stopping import Stopped
from deconfound.recipes.study_analyses import Analysis
from deconfound.recipes.study_earlier import read_earlier, with_earlier
from deconfound.recipes.study_file import read, said_at
from deconfound.recipes.study_judgements import Judgement
from deconfound.recipes.study_plan import (
    Planned,
    Status,
    analysed,
    check,
    check_counts,
    judged,
    planned,
    selected,
    status,
    trained,
)
from deconfound.recipes.study_shelf import Shelf
from deconfound.recipes.study_table import Collected, collected
from deconfound.recipes.targets import Target, evaluate_target
from deconfound.recipes.training import train
from deconfound.records import StudyRecord
from deconfound.reporting import analyses_csv, csv_table, render
from deconfound.store import RunFolder, held, write_text

PARTS = ("all", "train", "judge", "analyze", "table")
FILES = ("study.json", "study.csv", "report.html")
ANALYSES_FILE = "analyses.csv"


@dataclass(frozen=True, kw_only=True)
class Studied:
    """What a study found: how far each run is, and its record where there is anything to tell.

    ``failures`` are runs that diverged, one line each.
    """

    record: StudyRecord | None
    status: tuple[Status, ...]
    files: tuple[Path, ...] = ()
    failures: tuple[str, ...] = ()


def study(
    spec: str | Path | Mapping[str, Any],
    *,
    out: str | Path,
    data: str | None = None,
    only: Iterable[str] = (),
    seeds: Iterable[int] = (),
    earlier: str | Path | Iterable[str | Path] = (),
    part: str = "all",
    dry_run: bool = False,
    device: str = "auto",
    monitor: Monitor | None = None,
) -> Studied:
    """Train, judge, analyse and compare everything that a study defines.

    What is done is left as it is, what was interrupted goes on: trainings from their checkpoints, evaluations from
    their journals; an analysis begins again. Each run, ``OUT/NAME-SEED``, is worked on by one process at a time;
    several calls share the work. A run that was trained with the same recipe on the same data is taken as it is,
    wherever it comes from.

    Args:
        spec: a study's name, a YAML file, or a mapping.
        out: folder of the study.
        data: where the study's data set lies, in place of its name.
        only: names of methods to work on; all by default. The table is always that of the whole study.
        seeds: training seeds to work on; all by default.
        earlier: records (``study.json``) of this study, or of one that shares runs with it, made elsewhere. Runs that
            they have whole are not trained here, unless a call without them does it, as for a run that others build
            on. Of runs that are trained here, what they have about the same weights stands, and what lies here comes
            first. Their data are compared where they can be read without a download, and where a run is worked on.
        part: ``all``, or ``train``, ``judge``, ``analyze`` or ``table`` alone.
        dry_run: check everything, and say how far it is.
        device: ``auto``, ``cpu`` or ``cuda``.
        monitor: shows progress.

    Returns:
        The record, also in ``OUT/study.json``, with ``study.csv`` and ``report.html`` beside it, and ``analyses.csv``
        where there are analyses; None where no run is judged yet, and after ``train``, ``judge``, ``analyze`` and dry
        runs.

    Raises:
        InputError: a fault in the study, a folder that holds something else, or an earlier record of other settings or
            data, before anything is written.
        Stopped: SIGTERM or SIGINT arrived during a training, whose state is saved.
    """
    if part not in PARTS:
        raise unknown_name("part", part, PARTS)
    definition, folder = read(spec), Path(out)
    require(not folder.exists() or folder.is_dir(), "out", str(folder), "a folder; a file of this name exists")
    shelf, records, runs = Shelf(), read_earlier(earlier), planned(definition, folder, data)
    wanted = {run.path for run in selected(runs, only, seeds)}
    runs = with_earlier(runs, records, shelf, () if dry_run or part == "table" else wanted)
    chosen = tuple(run for run in runs if run.path in wanted)
    for run in runs:
        check(run, shelf if run in chosen and part != "table" else None)
    for run in chosen if part in ("all", "train", "judge") else ():
        check_counts(run, shelf, no_download=dry_run)
    if dry_run:
        return Studied(record=None, status=tuple(status(run) for run in chosen))
    failures: tuple[str, ...] = ()
    if part != "table":
        failures = _worked(chosen, part, device, monitor)
    progress = tuple(status(run) for run in runs)
    if part in ("train", "judge", "analyze"):
        return Studied(record=None, status=progress, failures=failures)
    found = collected(definition, runs, progress, failures, records)
    rule = "a study with a run that is judged; nothing is to be shown yet"
    judged_any = any(run.results for run in found.record.runs)
    require(part != "table" or judged_any, "out", str(folder), rule)
    files = _written(folder, found) if judged_any else ()
    return Studied(record=found.record if files else None, status=progress, files=files, failures=failures)


def _worked(runs: Sequence[Planned], part: str, device: str, monitor: Monitor | None) -> tuple[str, ...]:
    """Everything that is left of some runs; those that another process works on are passed over."""
    failures: list[str] = []
    for run in runs:
        if not _is_left(run, part):
            continue
        if missing := _missing_ground(run):
            _say(monitor, f"{run.path.name}: builds on {missing}, which is not trained here; passed over")
            continue
        with held(run.path) as other:
            if other:
                _say(monitor, f"{run.path.name}: {other} works on it, passed over")
                continue
            if part in ("all", "train") and trained(run) != "done":
                failures += _trained(run, device, monitor)
            if trained(run) == "done":
                for judgement in _judgements(run, part):
                    _judge(run, judgement, device, monitor)
                for analysis in _analyses(run, part):
                    _analyse(run, analysis, device, monitor)
    return tuple(failures)


def _missing_ground(run: Planned) -> str:
    """The first run that this one has yet to be built on and that is not there; empty where there is none."""
    if trained(run) == "done":
        return ""
    return next((path.name for path in run.grounds if not RunFolder(path).record.is_file()), "")


def _is_left(run: Planned, part: str) -> bool:
    """Whether this part has anything to do."""
    if trained(run) != "done":
        return part in ("all", "train")
    return bool(_judgements(run, part) or _analyses(run, part))


def _judgements(run: Planned, part: str) -> list[Judgement]:
    """Those that are left, if this part judges."""
    return [one for one in run.judgements if part in ("all", "judge") and judged(run, one) != "done"]


def _analyses(run: Planned, part: str) -> list[Analysis]:
    """Those that are left, if this part analyses."""
    return [one for one in run.analyses if part in ("all", "analyze") and analysed(run, one) != "done"]


def _trained(run: Planned, device: str, monitor: Monitor | None) -> list[str]:
    """Train a run; says so if it diverged."""
    accelerator = device.partition(":")[0]
    _say(monitor, f"{run.path.name}: training")
    try:
        train(
            run.recipe,
            data=run.data,
            out=run.path,
            changes=run.changes,
            resume=RunFolder(run.path).exists(),
            compute=Compute(accelerator=accelerator),
            monitor=monitor,
        )
    except Stopped as stop:
        raise Stopped(stop.signal, f"{run.path.name}: stopped, saved; the same command goes on") from None
    except FloatingPointError as error:
        _say(monitor, f"{run.path.name}: {error}")
        return [f"{run.path.name}: {error}"]
    return []


def _judge(run: Planned, judgement: Judgement, device: str, monitor: Monitor | None) -> None:
    sources = run.sources_of(judgement)
    if missing := [path.name for path in sources if not RunFolder(path).record.is_file()]:
        there = f"{missing[0]}, which is not trained here"
        _say(monitor, f"{run.path.name}: {judgement.name} takes images of {there}; left")
        return
    _say(monitor, f"{run.path.name}: {judgement.name}")
    target = Target(
        target=str(run.path),
        data=run.data,
        norm=judgement.norm,
        eps=judgement.eps,
        n=judgement.n,
        sample=judgement.sample,
        device=device,
        transfer_from=tuple(map(str, sources)),
    )
    judging = Judging(
        suite=judgement.suite,
        budget=judgement.budget,
        seed=judgement.seed,
        loops=judgement.loops,
        draws=judgement.draws,
        compile=judgement.compile,
        curve=judgement.curve,
        separate=judgement.separate,
        gallery=0,  # the pages of single evaluations have pictures; here they would say the same again for every run
    )
    evaluate_target(target, judging, out=run.record(judgement), monitor=monitor)


def _analyse(run: Planned, analysis: Analysis, device: str, monitor: Monitor | None) -> None:
    _say(monitor, f"{run.path.name}: {analysis.name}")
    look = analysis.look(run.path, data=run.data, device=device)
    with said_at(f"{run.path.name}: {analysis.name}"):
        look_into(look, out=run.path / analysis.name, monitor=monitor)


def _say(monitor: Monitor | None, text: str) -> None:
    if monitor is not None:
        monitor.message(text)


def _written(folder: Path, found: Collected) -> tuple[Path, ...]:
    """The record, the tables and the page."""
    record, csv, page = (folder / name for name in FILES)
    title = f"Study {found.record.study}"
    text = render(found.evaluations, found.trainings, title=title, analyses=found.analyses, study=found.record)
    write_text(page, text)
    write_text(csv, csv_table(found.record))
    more = (folder / ANALYSES_FILE,) if any(run.analyses for run in found.record.runs) else ()
    for file in more:
        write_text(file, analyses_csv(found.record))
    write_text(record, found.record.to_json())
    return record, csv, page, *more
