"""From a study to its runs: what each trains, how it is judged and analysed, and what of that is done already."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from deconfound.attacks.suites import DETERMINISTIC
from deconfound.data.naming import SHAPES, base_of, exists, moved
from deconfound.errors import InputError, require, unknown_name
from deconfound.recipes.registry import is_stochastic
from deconfound.recipes.resolve import merged, parse_changes, read_spec, resolve
from deconfound.recipes.schema import differences, validated
from deconfound.recipes.study_analyses import Analysis, check_fits, check_possible, check_record
from deconfound.recipes.study_file import Entry, Study, analyses_of, folder_of, judgements_of, said_at
from deconfound.recipes.study_judgements import Judgement
from deconfound.recipes.study_rows import check_asked, check_equal, digest_of, names_in, of_weights
from deconfound.recipes.study_shelf import Shelf
from deconfound.records import EvaluationRecord, StudyRun, TrainingRecord
from deconfound.store import RunFolder
from deconfound.store.lock import holder

Standing = Literal["done", "begun", "left", "elsewhere"]


@dataclass(frozen=True, kw_only=True)
class Planned:
    """One training run of a study, and what follows from it.

    Attributes:
        name: of the method, with that of the data set where the study has several.
        method: its name without that.
        recipe: a name or a file.
        changes: nested, the study's and the run's own, the seed, and the folders of its stages.
        path: the run's folder.
        grounds: folders of the runs that it builds on.
        sources: folders of the runs whose adversarial images a judgement tries, by method.
        stochastic: whether its network predicts at random.
        recorded: rows of earlier records, made elsewhere, that are of this run.
    """

    name: str
    method: str
    recipe: str
    seed: int
    data: str
    changes: Mapping[str, Any]
    control: str | None
    judgements: tuple[Judgement, ...]
    path: Path
    stochastic: bool
    grounds: tuple[Path, ...] = ()
    sources: Mapping[str, Path] = field(default_factory=dict)
    analyses: tuple[Analysis, ...] = ()
    recorded: tuple[StudyRun, ...] = ()

    @property
    def folder(self) -> RunFolder:
        """Where it is trained."""
        return RunFolder(self.path)

    def record(self, judgement: Judgement) -> Path:
        """The file of a judgement."""
        return self.path / f"{judgement.name}.json"

    def sources_of(self, judgement: Judgement) -> tuple[Path, ...]:
        """The runs whose adversarial images a judgement tries; this one is none of them."""
        return tuple(self.sources[name] for name in judgement.transfer if name != self.name)


def planned(study: Study, out: Path, data: str | None = None) -> tuple[Planned, ...]:
    """All runs of a study, in its order, seed by seed.

    Args:
        study: the study.
        out: its folder.
        data: where the study's data set lies, in place of its name; limits and confounders stay. Of several data sets
            those that are read from where the first one is.

    Raises:
        InputError: settings that a recipe does not have, a suite that a random network would fool, an analysis that
            needs what such runs do not have.
    """
    runs = []
    for place, entry in enumerate(study.runs):
        with said_at(f"{study.study}: runs[{place}]"):
            for one in study.across(entry):
                runs += [_planned(study, one, entry.name, seed, out, data) for seed in study.seeds_of(entry)]
    return tuple(runs)


def _planned(study: Study, entry: Entry, method: str, seed: int, out: Path, data: str | None) -> Planned:
    name = entry.data or study.main_data
    place = moved(name, data) if data is not None and base_of(name) == base_of(study.main_data) else name
    stages = {stage: out / folder_of(other, seed) for stage, other in entry.stages.items()}
    given = {"stages": {stage: str(path) for stage, path in stages.items()}} if stages else {}
    changes = merged(parse_changes(study.set), parse_changes(entry.set), {"seed": seed}, given)
    spec = read_spec(entry.recipe)
    family = changes.get("family") or spec.get("family") or "generic"  # another one is known once there are data
    draft = resolve(spec, data=place, family=family, changes=changes)
    stochastic = draft.sampler is not None or is_stochastic(draft.objective)
    kind = "stochastic" if stochastic else "deterministic"
    judgements = judgements_of(study, kind) if entry.judge else ()
    rule = f"a judgement for {entry.name}, which predicts so"
    require(len(judgements) > 0 or not entry.judge, f"judge.{kind}", [], rule)
    for judgement in judgements:
        rule = "rand (or adaptive): the network predicts at random, and these attacks would climb single draws of it"
        require(not (stochastic and judgement.suite in DETERMINISTIC), "judge: suite", judgement.suite, rule)
    analyses = analyses_of(study, entry, kind)
    for analysis in analyses:
        check_fits(analysis, draft, entry.name)
    return Planned(
        name=entry.name,
        method=method,
        recipe=entry.recipe,
        seed=seed,
        data=place,
        changes=changes,
        control=entry.control,
        judgements=judgements,
        path=out / folder_of(entry.name, seed),
        stochastic=stochastic,
        grounds=tuple(stages.values()),
        sources=_sources(study, judgements, seed, out),
        analyses=analyses,
    )


def _sources(study: Study, judgements: Iterable[Judgement], seed: int, out: Path) -> dict[str, Path]:
    """Where the runs lie whose adversarial images are tried on a run of this seed."""
    known = {entry.name: study.seeds_of(entry) for entry in study.runs}
    names = {name for judgement in judgements for name in judgement.transfer}
    return {name: out / folder_of(name, seed if seed in known[name] else known[name][0]) for name in names}


def selected(runs: Iterable[Planned], only: Iterable[str] = (), seeds: Iterable[int] = ()) -> tuple[Planned, ...]:
    """The runs of some methods with some seeds; all where none are named.

    Raises:
        InputError: a method or a seed that the study does not have, or nothing left.
    """
    runs, only, seeds = tuple(runs), tuple(only), tuple(seeds)
    known = {name for run in runs for name in (run.name, run.method)}
    for name in only:
        if name not in known:
            raise unknown_name("only", name, known)
    for seed in seeds:
        found = sorted({run.seed for run in runs})
        require(seed in found, "seeds", seed, f"seeds of the study: {', '.join(map(str, found))}")
    chosen = tuple(r for r in runs if (not only or {r.name, r.method} & {*only}) and (not seeds or r.seed in seeds))
    require(len(chosen) > 0, "seeds", list(seeds), f"a seed that {', '.join(only)} is trained with")
    return chosen


def at_hand(data: str) -> bool:
    """Whether data can be read without a download."""
    base = base_of(data)
    return exists(base) or base in ("digits", SHAPES)


def check_counts(run: Planned, shelf: Shelf, *, no_download: bool = False) -> None:
    """The data have as many test images as the judgements that are left ask for.

    Args:
        run: of the study.
        shelf: of the data.
        no_download: ask only data that need none.

    Raises:
        InputError: too few, before anything is trained for them.
    """
    if no_download and not at_hand(run.data):
        return
    for judgement in run.judgements:
        if judgement.n is not None and judged(run, judgement) == "left":
            rule = f"at most the {shelf.tests(run)} test images of {run.data}"
            require(judgement.n <= shelf.tests(run), f"{run.path}: {judgement.suite}: n", judgement.n, rule)


def check(run: Planned, shelf: Shelf | None) -> None:
    """What lies in a run's folder is that run, as far as it got, with its judgements and analyses, which can be made.

    Args:
        run: of the study.
        shelf: of the data; None compares no data, and takes the family from the folder.

    Raises:
        InputError: another recipe (naming the settings), other data, weights that a judgement is not about, a judgement
            or an analysis that asked something else, an analysis that the data do not allow.
    """
    folder = run.folder
    with said_at(str(run.path)):
        folder.check(resume=True)
        if run.analyses and shelf is not None:
            there = shelf.facts(run)[0]
            for analysis in run.analyses:
                check_possible(analysis, run.data, there.tests, there.operations, there.confounded)
    if not folder.exists():
        return
    before = validated(read_spec(folder.recipe), str(folder.recipe))
    facts = None
    if shelf is None:
        wanted = resolve(read_spec(run.recipe), data=run.data, family=before.family, changes=run.changes)
    else:
        facts, wanted = shelf.facts(run)
    if other := differences(before, wanted):
        rule = f"the recipe of the study: {other[1]}; another folder (--out), or a label in the study, keeps both"
        raise InputError(f"{run.path}", other[0], rule)
    if not folder.record.is_file():
        return
    if facts is not None:
        training = TrainingRecord.read(folder.record)
        rule = f"a run on the study's data, {run.data}; the content differs"
        require(training.data_digest == facts.train, f"{run.path}: data", training.data, rule)
    judged = [(file, one) for one in run.judgements if (file := run.record(one)).exists()]
    analysed = [(file, one) for one in run.analyses if (file := one.record(run.path)).exists()]
    digest = digest_of(folder.model) if judged or analysed else ""
    for file, judgement in judged:
        record = EvaluationRecord.read(file)
        check_equal({"model_digest": (record.model_digest, digest)}, str(file))
        check_asked(record, judgement, wanted, str(file), facts=facts, stochastic=run.stochastic)
    for file, analysis in analysed:
        found = {} if facts is None else {"data_digest": facts.test}
        check_record(analysis, file, {"model_digest": digest} | found)


def kept(run: Planned) -> StudyRun | None:
    """What earlier records have of the weights in a run's folder; where none lie there, of those they judged first."""
    if not run.recorded or not run.folder.record.is_file():
        return of_weights(run.recorded)
    with said_at(str(run.path)):
        return of_weights(run.recorded, digest_of(run.folder.model))


def trained(run: Planned) -> Standing:
    """How far the training of a run is: done too if earlier records have all that is asked, elsewhere if a part."""
    folder = run.folder
    if folder.record.is_file():
        return "done"
    asked = {*(one.name for one in run.judgements), *(one.name for one in run.analyses)}
    if run.recorded and asked <= names_in(kept(run)):
        return "done"
    return "begun" if folder.exists() else "elsewhere" if run.recorded else "left"


def judged(run: Planned, judgement: Judgement) -> Standing:
    """How far a judgement of a run is."""
    file = run.record(judgement)
    if file.is_file() or judgement.name in names_in(kept(run)):
        return "done"
    return "begun" if file.with_name(f"{file.name}.journal").exists() else "left"


def analysed(run: Planned, analysis: Analysis) -> Standing:
    """How far an analysis of a run is; it is made at once or not at all."""
    return "done" if analysis.record(run.path).is_file() or analysis.name in names_in(kept(run)) else "left"


@dataclass(frozen=True)
class Status:
    """How far a run of a study is, and which process works on it."""

    run: str
    training: Standing
    judgements: Mapping[str, Standing]
    holder: str = ""
    analyses: Mapping[str, Standing] = field(default_factory=dict)

    @property
    def complete(self) -> bool:
        """Whether nothing is left."""
        return all(found == "done" for found in (self.training, *self._parts.values()))

    @property
    def _parts(self) -> dict[str, Standing]:
        return {**self.judgements, **self.analyses}

    @property
    def progress(self) -> str:
        """How far, without who is at it."""
        parts = [f"training {self.training}", *(f"{name} {found}" for name, found in self._parts.items())]
        return f"{self.run}: {', '.join(parts)}"

    def __str__(self) -> str:
        """One line."""
        return self.progress + (f"; {self.holder} works on it" if self.holder else "")


def status(run: Planned) -> Status:
    """How far a run is."""
    found = {judgement.name: judged(run, judgement) for judgement in run.judgements}
    looks = {analysis.name: analysed(run, analysis) for analysis in run.analyses}
    return Status(run.path.name, trained(run), found, holder(run.path), looks)
