"""The job behind ``deconfound analyze``: a run, looked into by kind; its record and figures in a folder."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from deconfound.analysis.instruments import check_components
from deconfound.core.origin import Origin
from deconfound.core.protocols import ImageSource, Monitor
from deconfound.data import load as load_data
from deconfound.data.naming import as_file_name
from deconfound.errors import InputError, require, require_seed, require_whole, unknown_name
from deconfound.recipes.effect_attacks import parse_attacks
from deconfound.recipes.effecting import effects_analysis
from deconfound.recipes.exposing import exposure_analysis
from deconfound.recipes.instrumenting import components_of, instruments_analysis
from deconfound.recipes.loading import Loaded, load_run
from deconfound.recipes.picturing import matching_of, pictures_analysis
from deconfound.recipes.players import folder_of
from deconfound.recipes.relying import parse_rhos, reliance_analysis
from deconfound.recipes.remembering import checkpoints_analysis
from deconfound.recipes.schema import Recipe
from deconfound.recipes.styling import style_analysis
from deconfound.recipes.targets import check_fit, chosen, data_of_run, device_of, origin_facts
from deconfound.records import AnalysisRecord
from deconfound.reporting import analysis_files
from deconfound.store import write_bytes, write_text

BATCH = 256
ALL = "all"


@dataclass(frozen=True, kw_only=True)
class Look:
    """What to look into, and how: the arguments of ``deconfound analyze``.

    Attributes:
        run: run folder, or its ``model.safetensors``.
        kind: of analysis.
        data: data set; the run's own by default.
        n: the first n test images; all by default. With ``sample``, n drawn with that seed.
        seed: of all random numbers.
        batch_size: images at a time; it changes nothing beyond rounding.
        device: ``auto``, ``cpu`` or ``cuda``.
        rho: with kind ``reliance``: further agreement probabilities of the test; ``sweep``: 1/K, 0.5, 0.9 and 0.99.
        layer: with kinds that cut the network: where; its own cut by default.
        treatments, instruments: with kind ``instruments``: principal components of T and Z.
        steps: with kind ``pictures``: of the search for a picture.
        attack: with kind ``effects``: attacks by name, ``fgsm,pgd-20,cw-20,apgd-20``; those by default, PGD first.
    """

    run: str
    kind: str
    data: str | None = None
    n: int | None = None
    sample: int | None = None
    seed: int = 0
    batch_size: int = BATCH
    device: str = "auto"
    rho: str | float | Sequence[float] | None = None
    layer: str | None = None
    treatments: int | None = None
    instruments: int | None = None
    steps: int | None = None
    attack: str | Sequence[str] | None = None

    def __post_init__(self) -> None:
        if self.kind not in (*KINDS, ALL):
            raise unknown_name("kind", self.kind, (*KINDS, ALL))
        for option, value in self.options().items():
            takers = [name for name, kind in KINDS.items() if option in kind.options]
            rule = f"none with kind {self.kind}; it belongs to {' and '.join(takers)}"
            require(self.kind in (*takers, ALL), option, value, rule)
        parse_rhos(self.rho)
        parse_attacks(self.attack)
        check_components(*components_of(self))
        matching_of(self)
        require_seed("seed", self.seed)
        require_whole("batch_size", self.batch_size)

    def of_kind(self, kind: str) -> Look:
        """The same of a single kind, without the settings that it does not take."""
        foreign: dict[str, Any] = {name: None for name in self.options() if name not in KINDS[kind].options}
        return replace(self, kind=kind, **foreign)

    def options(self) -> dict[str, object]:
        """The settings of single kinds that were given."""
        names = sorted({option for kind in KINDS.values() for option in kind.options})
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}


@dataclass(frozen=True, kw_only=True)
class Scene:
    """A run and the images to look at it with, found and checked."""

    look: Look
    loaded: Loaded
    recipe: Recipe
    test: ImageSource
    index: Tensor
    origin: Origin
    monitor: Monitor | None


@dataclass(frozen=True)
class Kind:
    """One kind of analysis.

    Attributes:
        about: what it answers, in a line.
        fits: the runs it fits, as the end of "a kind that fits the run: it needs ...".
        ready: (look, network, recipe) -> what does the work, once the scene is set. Raises ``InputError`` where the run
            lacks what the analysis needs, and returns None where it was trained by a method that has nothing of it.
        options: settings of ``Look`` that this kind takes.
    """

    about: str
    fits: str
    ready: Callable[[Look, Loaded, Recipe], Callable[[Scene], AnalysisRecord] | None]
    options: tuple[str, ...] = ()


KINDS: Mapping[str, Kind] = {
    "style": Kind(
        "content and style: what each says of the label, before and after an attack, and what one keeps of the other",
        "a style branch, which runs of CausalAdv have (recipes causaladv-m and causaladv-t, with alpha above 0)",
        style_analysis,
    ),
    "reliance": Kind(
        "what becomes of predictions when the confounder of the images, or their shape, is set by intervention",
        "data with do-operations: shapes, or any data with a confounder put on them (NAME+patch:rho=0.9, NAME+tint)",
        reliance_analysis,
        ("rho",),
    ),
    "instruments": Kind(
        "is the adversarial variation of features a strong, valid instrument, and what do OLS, 2SLS and GMM estimate",
        "a network that can be cut in features and head, which all but random ones can (so not CiiV)",
        instruments_analysis,
        ("layer", "treatments", "instruments"),
    ),
    "pictures": Kind(
        "what natural and adversarial features look like, causal ones too, and which pixels speak for the label",
        "a network that can be cut in features and head, which all but random ones can (so not CiiV)",
        pictures_analysis,
        ("layer", "steps"),
    ),
    "exposure": Kind(
        "what each look through the sampler sees and predicts, and how equal features per exposure are",
        "a network behind a sampler, which runs of CiiV have (ciiv and the like, or any recipe with the key sampler)",
        exposure_analysis,
    ),
    "effects": Kind(
        "what adversarial, counterfactual and causal features predict, by attack, and how near causal inversion comes",
        "a hypothesis model h, which runs of AMR-GMM and CAFE have (recipes amr-gmm, cafe/... and cafe-authors/...)",
        effects_analysis,
        ("attack",),
    ),
    "checkpoints": Kind(
        "does style keep less of content in the epochs whose network withstands more (rank correlation over epochs)",
        "a style branch and kept epochs, which runs of CausalAdv have that were trained with --set keep_every=N",
        checkpoints_analysis,
    ),
}


def analyze(
    run: str | Path,
    kind: str,
    *,
    out: str | Path | None = None,
    overwrite: bool = False,
    monitor: Monitor | None = None,
    **settings: object,
) -> tuple[AnalysisRecord, tuple[Path, ...]]:
    """Look into a run, by the name of a kind: ``deconfound.analyze("runs/causal", "style", n=100)``.

    Args:
        run: run folder, or its ``model.safetensors``.
        kind: of analysis, such as ``style``.
        out, overwrite, monitor: as for ``look_into``.
        settings: further fields of ``Look``: data, n, sample, seed, batch_size, device, and those of single kinds.

    Raises:
        InputError: as for ``look_into``.
    """
    look = Look(run=str(run), kind=kind, **settings)  # type: ignore[arg-type]
    return look_into(look, out=out, overwrite=overwrite, monitor=monitor)


def analyze_all(
    run: str | Path,
    *,
    out: str | Path | None = None,
    overwrite: bool = False,
    monitor: Monitor | None = None,
    **settings: object,
) -> Everything:
    """Every analysis that fits a run: ``deconfound.analyze_all("runs/causal", n=100).found["style"]``.

    Args:
        run: run folder, or its ``model.safetensors``.
        out, overwrite, monitor: as for ``look_into_all``.
        settings: further fields of ``Look``.

    Raises:
        InputError: as for ``look_into_all``.
    """
    look = Look(run=str(run), kind=ALL, **settings)  # type: ignore[arg-type]
    return look_into_all(look, out=out, overwrite=overwrite, monitor=monitor)


def look_into(
    look: Look, *, out: str | Path | None = None, overwrite: bool = False, monitor: Monitor | None = None
) -> tuple[AnalysisRecord, tuple[Path, ...]]:
    """Look into a run; the record and its figures go to the folder ``out``, ``RUN/analyze-KIND`` by default.

    Args:
        look: what to look into.
        out: a folder; other files in it stay as they are.
        overwrite: replace an analysis of this kind that lies there.
        monitor: shows progress.

    Returns:
        The record, and the files that were written, the record first.

    Raises:
        InputError: bad input, before anything is written: a kind that does not fit the run, a run without its players,
            more images than the split has, a finished analysis at ``out``.
    """
    require(look.kind != ALL, "kind", look.kind, "a single kind; analyze_all takes all that fit")
    loaded = _loaded(look)
    folder = Path(out) if out is not None else default_folder(look)
    _check_free(folder, look.kind, overwrite=overwrite)
    record = _work(look, loaded)(_scene(look, loaded, monitor))
    return record, _written(folder, look.kind, record)


@dataclass(frozen=True)
class Everything:
    """What ``look_into_all`` found: (record, files) by kind, and for each other kind why it was left out."""

    found: Mapping[str, tuple[AnalysisRecord, tuple[Path, ...]]]
    skipped: Mapping[str, str]


def look_into_all(
    look: Look, *, out: str | Path | None = None, overwrite: bool = False, monitor: Monitor | None = None
) -> Everything:
    """Every kind of analysis that fits the run, one after the other; a finished one is left as it is.

    Args:
        look: what to look into, of kind ``all``; settings of single kinds go to those that take them.
        out: a folder for all of them; by default each has its own in the run, as ``look_into`` has it.
        overwrite: replace finished ones.
        monitor: shows progress.

    Raises:
        InputError: bad input that concerns all kinds; a run that no kind fits.
    """
    loaded, found, skipped = _loaded(look), {}, {}
    scene = _scene(look, loaded, monitor)
    for kind in KINDS:
        own = look.of_kind(kind)
        folder = Path(out) if out is not None else default_folder(own)
        try:
            _check_free(folder, kind, overwrite=overwrite)
            record = _work(own, loaded)(replace(scene, look=own))
        except InputError as error:
            skipped[kind] = f"needs {KINDS[kind].fits}" if error.field == "kind" and error.value == kind else str(error)
        else:
            found[kind] = record, _written(folder, kind, record)
    if not found:
        reasons = "; ".join(f"{kind}: {reason}" for kind, reason in skipped.items())
        raise InputError("run", look.run, f"a run with an analysis left to do ({reasons})")
    return Everything(found, skipped)


def _work(look: Look, loaded: Loaded) -> Callable[[Scene], AnalysisRecord]:
    work = KINDS[look.kind].ready(look, loaded, _recipe_of(loaded))
    if work is None:
        rule = f"a kind that fits the run: {look.run} was trained with {_recipe_of(loaded).recipe}; this one needs "
        raise InputError("kind", look.kind, rule + KINDS[look.kind].fits)
    return work


def _loaded(look: Look) -> Loaded:
    loaded = load_run(look.run)
    loaded.model.to(device_of(look.device))
    return loaded


def _recipe_of(loaded: Loaded) -> Recipe:
    assert loaded.recipe is not None  # load_run refuses weights without one
    return loaded.recipe


def default_folder(look: Look) -> Path:
    """Where an analysis goes that was given no place: into the run, by kind and by what differs from the defaults.

    >>> str(default_folder(Look(run="runs/first", kind="style", n=100)))
    'runs/first/analyze-style-n100'
    """
    data = "" if look.data is None else f"-{as_file_name(look.data)}"
    some = "" if look.n is None else f"-n{look.n}"
    drawn = "" if look.sample is None else f"-sample{look.sample}"
    seed = "" if look.seed == 0 else f"-seed{look.seed}"
    more = "".join(f"-{name}{_as_word(value)}" for name, value in look.options().items())
    place = Path(look.run)
    return (place.parent if place.is_file() else place) / f"analyze-{look.kind}{data}{some}{drawn}{seed}{more}"


def _as_word(value: object) -> str:
    text = ",".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
    return re.sub(r"[^\w.,]+", "-", text)


def _check_free(folder: Path, kind: str, *, overwrite: bool) -> None:
    above = next((place for place in (folder, *folder.parents) if place.exists()), folder)
    require(not above.is_file(), "out", str(folder), f"a folder; a file lies at {above}")
    rule = "a folder without a finished analysis of this kind (--overwrite replaces it)"
    require(overwrite or not (folder / f"{kind}.json").exists(), "out", str(folder), rule)


def _scene(look: Look, loaded: Loaded, monitor: Monitor | None) -> Scene:
    recipe, device = _recipe_of(loaded), device_of(look.device)
    name = data_of_run(Path(look.run)) if look.data is None else look.data
    if name is None:
        raise InputError("data", None, f"a data set (--data): {folder_of(look.run).recipe} is missing, which names it")
    test = load_data(name, size=recipe.image_size, parts=("test",)).test
    assert test is not None  # load refuses data without the part that is asked for
    check_fit(loaded, test, name)
    origin = Origin(**origin_facts(loaded, test, device))
    index = chosen(len(test), look.n, look.sample)
    return Scene(look=look, loaded=loaded, recipe=recipe, test=test, index=index, origin=origin, monitor=monitor)


def _written(folder: Path, kind: str, record: AnalysisRecord) -> tuple[Path, ...]:
    """The files of an analysis; the record comes last onto the disk, so that it stands for a finished one."""
    files = {folder / name: content for name, content in analysis_files(record).items()}
    for path, content in files.items():
        write_bytes(path, content)
    path = folder / f"{kind}.json"
    write_text(path, record.to_json())
    return (path, *files)
