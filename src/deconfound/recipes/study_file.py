"""Studies as they are written down: methods, seeds, judgements, analyses and controls in a YAML file."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

from pydantic import ValidationError

from deconfound.errors import InputError, meant, nearest, require, unknown_name
from deconfound.recipes.plain_files import read_yaml
from deconfound.recipes.resolve import names as recipe_names
from deconfound.recipes.resolve import read_spec
from deconfound.recipes.schema import input_error
from deconfound.recipes.study_analyses import Analysis, Seed
from deconfound.recipes.study_judgements import Judgement
from deconfound.training.settings import Settings

FIELD = "study"
ModelKind = Literal["deterministic", "stochastic", "all"]
KINDS = get_args(ModelKind)
_LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9+._/-]*", re.ASCII)
# What a run entry says in words of its own.
_OWN_KEYS = {"seed": "seeds", "data": "data", "recipe": "recipe", "stages": "stages"}
_Made = TypeVar("_Made", bound=Settings)


class Entry(Settings):
    """A method of a study: a recipe (name or file) with changes, trained with every seed.

    ``label`` names it where its recipe does not; ``control`` is the name of the method that it is tested against.
    ``stages`` says which earlier method of the study, with the same seed, is taken for a stage that the recipe builds
    on, so that several share one. ``judge`` false: it is trained for others to build on, and not judged. ``analyze``
    lists analyses of this method's runs alone.
    """

    recipe: str
    label: str = ""
    seeds: tuple[Seed, ...] | None = None
    control: str | None = None
    data: str | None = None
    set: dict[str, Any] = {}
    stages: dict[str, str] = {}
    judge: bool = True
    analyze: tuple[Analysis, ...] = ()

    @property
    def name(self) -> str:
        """The label, or the recipe's name."""
        return self.label or (Path(self.recipe).stem if self.recipe.endswith((".yaml", ".yml")) else self.recipe)


class Study(Settings):
    """A study: what is trained, with which changes and seeds, how it is judged and analysed, by kind of model.

    ``data`` is a data set, or several by name: then every method without data of its own is trained on each, as
    ``METHOD/NAME``, against its control and on its stages there. ``analyze`` is of every run that is judged; a single
    method may ask for more.
    """

    study: str
    about: str = ""
    data: str | dict[str, str]
    seeds: tuple[Seed, ...] = (0,)
    set: dict[str, Any] = {}
    judge: dict[ModelKind, tuple[Judgement, ...]]
    analyze: dict[ModelKind, tuple[Analysis, ...]] = {}
    runs: tuple[Entry, ...]

    def seeds_of(self, entry: Entry) -> tuple[int, ...]:
        """The entry's own, or the study's."""
        return self.seeds if entry.seeds is None else entry.seeds

    @property
    def main_data(self) -> str:
        """The data set, the first of several."""
        return self.data if isinstance(self.data, str) else next(iter(self.data.values()))

    def data_of(self, entry: Entry) -> str:
        """The entry's own data, or all of the study's, in words."""
        return entry.data or (self.data if isinstance(self.data, str) else ", ".join(self.data.values()))

    def across(self, entry: Entry) -> tuple[Entry, ...]:
        """The entry on each data set of the study; itself where there is one, or where it has its own."""
        if isinstance(self.data, str) or entry.data is not None:
            return (entry,)
        everywhere = {one.name for one in self.runs if one.data is None}

        def there(name: str, key: str) -> str:
            return f"{name}/{key}" if name in everywhere else name

        return tuple(
            entry.model_copy(
                update={
                    "label": there(entry.name, key),
                    "data": data,
                    "control": None if entry.control is None else there(entry.control, key),
                    "stages": {stage: there(name, key) for stage, name in entry.stages.items()},
                }
            )
            for key, data in self.data.items()
        )


@cache
def names() -> tuple[str, ...]:
    """The studies that come with the library, sorted."""
    shelf = resources.files("deconfound.recipes").joinpath("studies")
    return tuple(sorted(e.name.removesuffix(".yaml") for e in shelf.iterdir() if e.name.endswith(".yaml")))


def about(name: str) -> str:
    """One line on a study."""
    return read(name).about


def read(spec: str | Path | Mapping[str, Any]) -> Study:
    """A study by name, YAML file or mapping.

    Raises:
        InputError: no such study, or anything wrong in it that can be known without data; the line says where.
    """
    if isinstance(spec, Mapping):
        return defined(spec, FIELD)
    if str(spec).endswith((".yaml", ".yml")):
        return defined(read_yaml(Path(spec), FIELD), str(spec))
    if spec not in names():
        raise unknown_name(FIELD, str(spec), (*names(), "FILE.yaml"))
    shelf = resources.files("deconfound.recipes").joinpath("studies")
    with resources.as_file(shelf.joinpath(f"{spec}.yaml")) as file:
        return defined(read_yaml(file, FIELD), str(spec))


def defined(plain: Mapping[str, Any], where: str) -> Study:
    """A study from plain data; ``where`` begins what is said of it.

    Raises:
        InputError: unknown keys, recipes or suites, nothing to do, anything twice, a control that is not there.
    """
    parts = dict(plain)
    if isinstance(parts.get("runs"), Sequence) and not isinstance(parts["runs"], str):
        parts["runs"] = tuple(_entry(run, f"{where}: runs[{i}]") for i, run in enumerate(parts["runs"]))
    for key, of in (("judge", Judgement), ("analyze", Analysis)):
        if isinstance(parts.get(key), Mapping):
            parts[key] = {kind: _of_kind(of, kind, found, f"{where}: {key}") for kind, found in parts[key].items()}
    if (data := parts.get("data")) is not None:
        several = isinstance(data, Mapping) and bool(data) and all(isinstance(one, str) for one in data.values())
        require(isinstance(data, str) or several, f"{where}: data", data, "a data set, or several by name")
    study = _made(Study, parts, where)
    require(len(study.runs) > 0, f"{where}: runs", [], "at least one run")
    require(any(study.judge.values()), f"{where}: judge", dict(study.judge), "at least one judgement")
    _check_data(study, where)
    _check_entries(study, where)
    return study


def _entry(plain: Any, where: str) -> Entry:
    if isinstance(plain, Mapping) and "analyze" in plain:
        plain = dict(plain) | {"analyze": _listed(Analysis, plain["analyze"], f"{where}: analyze")}
    return _made(Entry, plain, where)


def _of_kind(of: type[_Made], kind: str, found: Any, where: str) -> tuple[_Made, ...]:
    if kind not in KINDS:
        raise unknown_name(where, str(kind), KINDS)
    return _listed(of, found, f"{where}.{kind}")


def _listed(of: type[_Made], found: Any, where: str) -> tuple[_Made, ...]:
    what = "judgements" if of is Judgement else "analyses"
    require(isinstance(found, Sequence) and not isinstance(found, str), where, found, f"a list of {what}")
    return tuple(_made(of, one, f"{where}[{i}]") for i, one in enumerate(found))


def _made(kind: type[_Made], plain: Any, where: str) -> _Made:
    """Settings from plain data, with what is wrong said at its place."""
    require(isinstance(plain, Mapping), where, plain, f"keys and values: {', '.join(kind.model_fields)}")
    with said_at(where):
        try:
            return kind.model_validate(dict(plain))
        except ValidationError as error:
            raise input_error(error, plain, kind, where) from None


@contextmanager
def said_at(where: str) -> Iterator[None]:
    """What is refused inside is said to be refused there."""
    try:
        yield
    except InputError as error:
        field = error.field if error.field.startswith(where) else f"{where}: {error.field}"
        raise InputError(field, error.value, error.rule) from None


def _check_data(study: Study, where: str) -> None:
    if isinstance(study.data, str):
        return
    for key in study.data:
        require(_LABEL.fullmatch(key) is not None, f"{where}: data", key, "letters, digits and + . _ / - as a name")
    transfers = [name for found in study.judge.values() for judgement in found for name in judgement.transfer]
    rule = "no transfer in a study on several data sets"
    require(not transfers, f"{where}: judge: transfer", transfers[0] if transfers else "", rule)


def _check_entries(study: Study, where: str) -> None:
    """Every entry is whole in itself, and all of them together."""
    for place, entry in enumerate(study.runs):
        here = f"{where}: runs[{place}]"
        with said_at(here):
            read_spec(entry.recipe)
        require(_LABEL.fullmatch(entry.name) is not None, f"{here}: label", entry.name, "letters, digits and + . _ / -")
        seeds = study.seeds_of(entry)
        require(len(seeds) > 0, f"{here}: seeds", list(seeds), "at least one seed")
        require(len(set(seeds)) == len(seeds), f"{here}: seeds", list(seeds), "every seed once")
        for place_of_set, changes in ((where, study.set), (here, entry.set)):
            for key in changes:
                own = "stages" if key.startswith("stages.") and key.count(".") == 1 else key  # not stages.amr.epochs
                rule = f"the key {_OWN_KEYS.get(own)} of the run"
                require(own not in _OWN_KEYS, f"{place_of_set}: set", key, rule)
    _check_names(study, where)
    known = {entry.name: entry for entry in study.runs}
    for place, entry in enumerate(study.runs):
        here = f"{where}: runs[{place}]"
        if entry.control is not None:
            _check_control(study, entry, known, f"{here}: control")
        earlier = {one.name: one for one in study.runs[:place]}
        for stage, name in entry.stages.items():
            _check_stage(study, entry, earlier, name, f"{here}: stages.{stage}")
    for kind, found in study.judge.items():
        for i, judgement in enumerate(found):
            for name in judgement.transfer:
                _check_source(study, known, name, f"{where}: judge.{kind}[{i}].transfer")


def _check_source(study: Study, known: Mapping[str, Entry], name: str, where: str) -> None:
    if name not in known:
        raise unknown_name(where, name, known)
    require(known[name].data in (None, study.data), where, name, f"a run on the study's data, {study.main_data}")


def _check_names(study: Study, where: str) -> None:
    again = [
        name
        for name, times in Counter(folder_of(e.name, 0) for entry in study.runs for e in study.across(entry)).items()
        if times > 1
    ]
    rule = "different names; a label tells runs of one recipe apart"
    require(not again, f"{where}: runs", again[0].removesuffix("-0") if again else "", rule)
    for kind in KINDS[:2]:
        both = [judgement.name for judgement in judgements_of(study, kind)]
        twice = [name for name, times in Counter(both).items() if times > 1]
        require(
            not twice, f"{where}: judge.{kind}", twice[0] if twice else "", "every judgement once, with that of all"
        )
    for entry in study.runs:
        for kind in KINDS[:2]:
            all_of_it = [analysis.name for analysis in analyses_of(study, entry, kind)]
            twice = [name for name, times in Counter(all_of_it).items() if times > 1]
            rule = "every analysis of a run once, with those of all"
            require(not twice, f"{where}: analyze: {entry.name}", twice[0] if twice else "", rule)


def _check_control(study: Study, entry: Entry, known: Mapping[str, Entry], where: str) -> None:
    if entry.control not in known:
        others = [name for name in known if name != entry.name]
        near = meant(nearest(str(entry.control), others))
        rule = f"the name of another run of the study ({', '.join(others) or 'there is none'}){near}"
        missing = not near and entry.control in recipe_names()
        rule += f"; add - {{recipe: {entry.control}}} to the runs" if missing else ""
        raise InputError(where, entry.control, rule)
    control = known[str(entry.control)]
    require(control is not entry, where, entry.control, "another run")
    same = study.data_of(entry) == study.data_of(control)
    require(same, where, entry.control, f"a run on the same data, {study.data_of(entry)}")
    theirs = study.seeds_of(control)
    shared = any(seed in theirs for seed in study.seeds_of(entry))
    require(shared, where, entry.control, f"a run with a seed in common; it has {', '.join(map(str, theirs))}")
    require(control.judge and entry.judge, where, entry.control, "runs that are judged")


def _check_stage(study: Study, entry: Entry, earlier: Mapping[str, Entry], name: str, where: str) -> None:
    if name not in earlier:
        rule = f"a run that stands before it: {', '.join(earlier) or 'there is none'}"
        raise InputError(where, name, rule)
    other = earlier[name]
    same = study.data_of(entry) == study.data_of(other)
    require(same, where, name, f"a run on the same data, {study.data_of(entry)}")
    lacking = [seed for seed in study.seeds_of(entry) if seed not in study.seeds_of(other)]
    require(not lacking, where, name, f"a run with the same seeds; it has no seed {', '.join(map(str, lacking))}")


def judgements_of(study: Study, kind: str) -> tuple[Judgement, ...]:
    """Those of a kind of model, and those of all."""
    return (*study.judge.get(kind, ()), *study.judge.get("all", ()))  # type: ignore[call-overload]


def analyses_of(study: Study, entry: Entry, kind: str) -> tuple[Analysis, ...]:
    """Those of a method whose model is of a kind: the study's where it is judged, then its own."""
    shared = (*study.analyze.get(kind, ()), *study.analyze.get("all", ())) if entry.judge else ()  # type: ignore[call-overload]
    return (*shared, *entry.analyze)


def folder_of(name: str, seed: int) -> str:
    """The folder of a run.

    >>> folder_of("pgd-at", 0), folder_of("cafe/trades", 2)
    ('pgd-at-0', 'cafe-trades-2')
    """
    return f"{name.replace('/', '-')}-{seed}"
