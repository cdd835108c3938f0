"""The job behind ``deconfound evaluate``: a run or a network by name, judged on a data set."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor

from deconfound.attacks import suites
from deconfound.core.protocols import Classifier, ImageSource, Journal, Monitor, StochasticClassifier
from deconfound.core.threat import ThreatModel, parse_norm, parse_radius, show_radius
from deconfound.data import load as load_data
from deconfound.data.families import family_of
from deconfound.data.naming import as_file_name
from deconfound.errors import InputError, reason, require
from deconfound.evaluation import Provenance
from deconfound.recipes import machine
from deconfound.recipes.compute import Compute
from deconfound.recipes.crew import FabricCrew, launched
from deconfound.recipes.declaring import of_run
from deconfound.recipes.evaluating import Judging, Subject, run
from deconfound.recipes.loading import Loaded, check_foreign, is_network, load, load_foreign, load_run
from deconfound.recipes.players import folder_of
from deconfound.recipes.resolve import family_radii, family_radius, read_spec
from deconfound.recipes.schema import Recipe
from deconfound.recipes.unfinished import with_journal
from deconfound.records import EvaluationRecord
from deconfound.reporting.text import shortened
from deconfound.store import RunFolder, write_text

LONGEST = 80
"""Letters for the sources of transfer in a record's name."""


@dataclass(frozen=True, kw_only=True)
class Target:
    """What to judge on what: the arguments of ``deconfound evaluate``.

    Attributes:
        target: run folder, ``model.safetensors``, or a model name.
        weights: file of weights for a model name.
        data: data set; the run's own by default.
        norm, eps: threat model; the run's by default, else the data family's.
        n: the first n test images; all by default. With ``sample``, n drawn with that seed.
        mean, std: normalisation inside a model given by name.
        image_size: of a model given by name, to which images are resized and cropped; a run has its own.
        device: ``auto``, ``cpu`` or ``cuda``.
        transfer_from: run folders whose adversarial images are tried on this model, as a check for gradient masking,
            and as columns of their own where every attack is judged by itself.
    """

    target: str
    weights: str | None = None
    data: str | None = None
    norm: str | None = None
    eps: float | str | None = None
    n: int | None = None
    sample: int | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    image_size: int | None = None
    device: str = "auto"
    transfer_from: tuple[str, ...] = ()


def evaluate_target(
    target: Target,
    judging: Judging | None = None,
    *,
    out: str | Path | None = None,
    overwrite: bool = False,
    compute: Compute | None = None,
    monitor: Monitor | None = None,
    printed: bool = False,
) -> tuple[EvaluationRecord, Path | None]:
    """Judge a run or a model by name; the record goes to ``out`` (for a run, into its folder by default).

    Progress goes to ``OUT.journal``; the same call resumes from it. With ``compute`` of several processes each does
    its share and all return the same record, with the verdicts of one process. Where no record is written, the monitor
    is told so before the work, unless the whole record will be ``printed``.

    Raises:
        InputError: bad input, before anything is written.
    """
    judging = judging or Judging()
    if not suites.exists(judging.suite):  # refused before anything is loaded
        raise suites.unknown(judging.suite)
    fabric = None if compute is None else launched(compute)
    device = device_of(target.device) if fabric is None else fabric.device
    loaded = _run_of(target)
    name = data_of_run(Path(target.target)) if target.data is None and loaded else target.data
    require(name is not None, "data", None, "a data set (--data): only runs know theirs")
    assert name is not None
    threat = _threat_early(target, loaded)
    size = loaded.recipe.image_size if loaded and loaded.recipe else target.image_size
    images = load_data(name, size=size, parts=("test",))
    test = images.test
    assert test is not None  # load refuses data without the part that is asked for
    options: dict[str, Any] = {}
    if loaded is None:
        rule = "means of pixels in [0, 1]; of levels from 0 to 255, divide by 255"
        require(all(0 <= mean <= 1 for mean in target.mean or ()), "mean", target.mean, rule)
        options = {key: value for key, value in (("mean", target.mean), ("std", target.std)) if value is not None}
        loaded = load_foreign(target.target, target.weights, len(test.class_names), test.shape, options)
    check_fit(loaded, test, name)
    family = loaded.recipe.family if loaded.recipe else family_of(name, test.shape, len(test.class_names))
    threat = threat or _family_threat(target, family)
    index = _index(target, judging, len(test), loaded)
    path = Path(out) if out is not None else default_path(target, judging, threat)
    subject = Subject(
        model=loaded.model.to(device),
        images=test,
        labels=None,
        index=index,
        threat=threat,
        provenance=Provenance(
            **origin_facts(loaded, test, device), budget=judging.budget, notes=_notes(loaded, judging, options, target)
        ),
        declared=of_run(target.target, loaded) if judging.suite == "adaptive" else (),
        sources=_sources(target, device),
        radii=family_radii(family),
    )
    if path is None and monitor is not None and not printed:
        monitor.message("no record is written; --out FILE writes one, and lets a killed evaluation go on")
    return _judge(subject, judging, path, overwrite, monitor, fabric), path


def _sources(target: Target, device: torch.device) -> dict[str, Classifier]:
    """The networks of some runs, by the names of their folders; equal names are numbered.

    Raises:
        InputError: no run, or the one that is judged, whose own images tell nothing about its gradients.
    """
    places, found = target.transfer_from, dict[str, Classifier]()
    names = [Path(place).name for place in places]
    for name, place in zip(shortened(names, max(map(len, names), default=0)), places, strict=True):
        same = folder_of(place).path.resolve() == folder_of(target.target).path.resolve()
        require(not same, "transfer_from", place, "another run than the one that is judged")
        try:
            found[name] = load(place).to(device)
        except InputError as error:
            raise InputError("transfer_from", error.value, error.rule) from None
    return found


def _judge(
    subject: Subject,
    judging: Judging,
    path: Path | None,
    overwrite: bool,
    monitor: Monitor | None,
    fabric: Fabric | None,
) -> EvaluationRecord:
    crew = None if fabric is None else FabricCrew(fabric)

    def work(journal: Journal | None) -> EvaluationRecord:
        record = run(judging, subject, journal=journal, crew=crew, monitor=monitor)
        if path is not None and (crew is None or crew.rank == 0):
            write_text(path, record.to_json())
        return record

    return with_journal(path, work, overwrite=overwrite, crew=crew)


def _index(target: Target, judging: Judging, count: int, loaded: Loaded) -> Tensor:
    """The examples asked for; on a stochastic model the budget's number of them where none were."""
    n, points = target.n, judging.spent.points
    if n is None and points is not None and isinstance(loaded.model, StochasticClassifier):
        n = min(points, count)
    return chosen(count, n, target.sample)


def chosen(count: int, n: int | None, sample: int | None) -> Tensor:
    """Which of ``count`` examples: the first n, or n drawn with a seed and sorted.

    >>> chosen(5, 3, None).tolist()
    [0, 1, 2]
    """
    n = count if n is None else n
    require(1 <= n <= count, "n", n, f"between 1 and the split's {count} images")
    if sample is None:
        return torch.arange(n)
    require(0 <= sample < 2**63, "sample", sample, "a seed of at least 0, below 2^63")
    return torch.randperm(count, generator=torch.Generator().manual_seed(sample))[:n].sort().values


def device_of(name: str) -> torch.device:
    """The device of a name; ``auto`` is an accelerator where there is one.

    Raises:
        InputError: no such device here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:  # which lists devices that hardly any machine has
        raise InputError("device", name, "auto, cpu, cuda, cuda:1 or another device of torch") from None
    try:
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError) as error:
        raise InputError("device", name, f"auto, or a device of this machine ({reason(error)})") from None
    return device


def _run_of(target: Target) -> Loaded | None:
    """The run, or None where a network's name is meant; weights make a name of what may be a folder too."""
    name = target.target
    if not Path(name).exists() or (target.weights is not None and is_network(name)):
        check_foreign(name, target.weights)
        return None
    for field in ("weights", "mean", "std", "image_size"):
        value = getattr(target, field)
        require(value is None, field, value, f"none with a run: {name} has its own")
    return load_run(name)


def data_of_run(place: Path) -> str | None:
    """The data set that a run (given by its folder or a file inside) was trained on."""
    folder = RunFolder(place if place.is_dir() else place.parent)
    return str(read_spec(folder.recipe)["data"]) if place.exists() and folder.exists() else None


def _threat_early(target: Target, loaded: Loaded | None) -> ThreatModel | None:
    """The threat model where no data family is needed for it; a malformed one is refused before data are loaded."""
    norm = parse_norm(target.norm) if target.norm is not None else None
    eps = parse_radius(target.eps) if target.eps is not None else None
    if loaded is not None and loaded.recipe is not None:
        recipe = loaded.recipe
        norm = norm or recipe.norm
        if eps is None:
            eps = recipe.eps if norm == recipe.norm else family_radius(recipe.family, norm)
    return ThreatModel(norm or "linf", eps) if eps is not None else None


def _family_threat(target: Target, family: str) -> ThreatModel:
    norm = target.norm or "linf"
    return ThreatModel(norm, family_radius(family, norm))


def check_fit(loaded: Loaded, test: ImageSource, name: str) -> None:
    """Images and classes are those of the network's training, as far as its file says.

    Raises:
        InputError: other images or classes.
    """
    if loaded.shape is not None and tuple(test.shape) != tuple(loaded.shape):
        raise InputError(
            "data", f"{name} with images {test.shape}", f"images {loaded.shape}, as the run was trained on"
        )
    if loaded.class_names is not None and loaded.class_names != tuple(test.class_names):
        shown = f"{name} with {len(test.class_names)} classes {', '.join(test.class_names[:3])}..."
        theirs = f"{len(loaded.class_names)} classes {', '.join(loaded.class_names[:3])}..."
        raise InputError("data", shown, f"the classes that the run was trained on, {theirs}")


def default_path(target: Target, judging: Judging, threat: ThreatModel) -> Path | None:
    """Where a record goes that was given no place: into the run, by the question and what differs from the defaults.

    None where no run folder is judged. Options that change the answer have a word of their own, so that one answer is
    not in another's place.
    """
    if not Path(target.target).is_dir():
        return None
    usual = Judging()
    words = ["evaluate", *([] if target.data is None else [as_file_name(target.data)]), as_file_name(judging.suite)]
    words += [] if judging.budget == usual.budget else [judging.budget]
    words += [threat.norm, show_radius(threat.eps).replace("/", "-")]
    words += [f"{key}{value}" for key, value in (("n", target.n), ("sample", target.sample)) if value is not None]
    words += [] if judging.seed == usual.seed else [f"seed{judging.seed}"]
    words += ["separate"] if judging.separate else []
    words += [
        f"{short}{getattr(judging, key):g}"
        for short, key in (("loops", "loops"), ("draws", "draws"), ("audit", "audit_min"), ("share", "audit_share"))
        if getattr(judging, key) != getattr(usual, key)
    ]
    words += ["transfer", _joined(target.transfer_from)] if target.transfer_from else []
    return Path(target.target) / ("-".join(words) + ".json")


def _joined(runs: Sequence[str]) -> str:
    """The names of some runs' folders; their number and a digest where that is too long for a file's name."""
    names = "+".join(folder_of(run).path.resolve().name for run in runs)
    return names if len(names) <= LONGEST else f"{len(runs)}-{hashlib.sha256(names.encode()).hexdigest()[:8]}"


def _notes(loaded: Loaded, judging: Judging, options: Mapping[str, Any], target: Target) -> tuple[str, ...]:
    said = ", ".join(f"{name} {value}" for name, value in options.items())
    notes: tuple[str, ...] = (f"normalised inside the network: {said}",) if said else ()
    if loaded.recipe is None and target.weights is None:
        notes = (*notes, f"weights as {target.target} returns them; no file was read into it")
    if judging.suite != "adaptive" or loaded.recipe is not None:
        return notes
    return (*notes, "bare weights: attacks that a training objective declares need its run and were left out")


def origin_facts(loaded: Loaded, test: ImageSource, device: torch.device) -> dict[str, Any]:
    """What is known of a network and its test images, by the fields of ``core.origin.Origin``."""
    recipe = loaded.recipe
    return {
        "model": loaded.name,
        "model_digest": loaded.digest,
        "defence": recipe.recipe if recipe else "",
        "data": test.name,
        "data_digest": test.digest(),
        "class_names": test.class_names,
        "machine": machine.describe(device),
        "training": _training_facts(recipe),
    }


def _training_facts(recipe: Recipe | None) -> dict[str, Any]:
    """What a record says about the training of a network; nothing for foreign weights."""
    if recipe is None:
        return {}
    keys = ("recipe", "objective", "model", "norm", "eps", "epochs", "batch_size", "seed", "precision")
    facts = {key: value for key, value in recipe.model_dump(mode="json").items() if key in keys}
    return facts | {"recipe_digest": recipe.digest()}
