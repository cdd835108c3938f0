"""The job behind ``deconfound analyze``: a run, looked into by kind; its record and figures in a folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from deconfound.core.origin import Origin
from deconfound.core.protocols import ImageSource, Monitor
from deconfound.data import load as load_data
from deconfound.errors import InputError, require, unknown_name
from deconfound.recipes.loading import Loaded, load_run
from deconfound.recipes.players import folder_of
from deconfound.recipes.schema import Recipe
from deconfound.recipes.styling import style_analysis
from deconfound.recipes.targets import check_fit, chosen, data_of_run, device_of, origin_facts
from deconfound.records import AnalysisRecord
from deconfound.reporting import analysis_files
from deconfound.store import write_bytes, write_text

BATCH = 256


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
    """

    run: str
    kind: str
    data: str | None = None
    n: int | None = None
    sample: int | None = None
    seed: int = 0
    batch_size: int = BATCH
    device: str = "auto"

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise unknown_name("kind", self.kind, KINDS)
        require(0 <= self.seed < 2**63, "seed", self.seed, "a whole number of at least 0, below 2^63")
        require(self.batch_size >= 1, "batch_size", self.batch_size, "a whole number of at least 1")


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
        ready: (run, network, recipe) -> what does the work, once the scene is set. Raises ``InputError`` where the run
            lacks what the analysis needs, and returns None where it was trained by a method that has nothing of it.
    """

    about: str
    fits: str
    ready: Callable[[str, Loaded, Recipe], Callable[[Scene], AnalysisRecord] | None]


KINDS: Mapping[str, Kind] = {
    "style": Kind(
        "content and style: what each says of the label, before and after an attack, and what one keeps of the other",
        "a style branch, which runs of CausalAdv have (recipes causaladv-m and causaladv-t, with alpha above 0)",
        style_analysis,
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
        settings: further fields of ``Look``: data, n, sample, seed, batch_size, device.

    Raises:
        InputError: as for ``look_into``.
    """
    look = Look(run=str(run), kind=kind, **settings)  # type: ignore[arg-type]
    return look_into(look, out=out, overwrite=overwrite, monitor=monitor)


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
    loaded = load_run(look.run)
    folder = Path(out) if out is not None else default_folder(look)
    _check_free(folder, look.kind, overwrite=overwrite)
    recipe = loaded.recipe
    assert recipe is not None  # load_run refuses weights without one
    device = device_of(look.device)
    loaded.model.to(device)
    work = KINDS[look.kind].ready(look.run, loaded, recipe)
    if work is None:
        rule = f"a kind that fits the run: {look.run} was trained with {recipe.recipe}; this one needs "
        raise InputError("kind", look.kind, rule + KINDS[look.kind].fits)
    record = work(_scene(look, loaded, recipe, device, monitor))
    return record, _written(folder, look.kind, record)


def default_folder(look: Look) -> Path:
    """Where an analysis goes that was given no place: into the run, by kind and by what differs from the defaults.

    >>> str(default_folder(Look(run="runs/first", kind="style", n=100)))
    'runs/first/analyze-style-n100'
    """
    data = "" if look.data is None else f"-{Path(look.data).name.replace(':', '-')}"
    some = "" if look.n is None else f"-n{look.n}"
    drawn = "" if look.sample is None else f"-sample{look.sample}"
    seed = "" if look.seed == 0 else f"-seed{look.seed}"
    place = Path(look.run)
    return (place.parent if place.is_file() else place) / f"analyze-{look.kind}{data}{some}{drawn}{seed}"


def _check_free(folder: Path, kind: str, *, overwrite: bool) -> None:
    above = next((place for place in (folder, *folder.parents) if place.exists()), folder)
    require(not above.is_file(), "out", str(folder), f"a folder; a file lies at {above}")
    rule = "a folder without a finished analysis of this kind (--overwrite replaces it)"
    require(overwrite or not (folder / f"{kind}.json").exists(), "out", str(folder), rule)


def _scene(look: Look, loaded: Loaded, recipe: Recipe, device: torch.device, monitor: Monitor | None) -> Scene:
    name = look.data or data_of_run(Path(look.run))
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
