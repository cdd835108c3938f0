"""The job behind ``deconfound export``: the weights of a finished run in a folder of their own, with a card."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from deconfound.core.protocols import HasExpectation, StochasticClassifier
from deconfound.core.streams import Streams
from deconfound.errors import InputError, require, unknown_name
from deconfound.models.graph import Headed, check_graphs, run_graph, to_graph
from deconfound.recipes import machine
from deconfound.recipes.carding import evaluations_of, model_card
from deconfound.recipes.loading import Loaded, load_run
from deconfound.recipes.players import folder_of
from deconfound.records import ExportedFile, ModelCard, TrainingRecord
from deconfound.reporting import card_text
from deconfound.store import RunFolder, remove, write_bytes, write_text

Stochastic = Literal["refuse", "surrogate"]
FORMATS = ("safetensors", "onnx")
WEIGHTS, GRAPH, SURROGATE, CARD, CARD_TEXT = "model.safetensors", "model.onnx", "surrogate.onnx", "card.json", "card.md"
NAMES = (WEIGHTS, GRAPH, SURROGATE, CARD_TEXT, CARD)

TOLERANCE = 1e-4
"""Largest difference of logits between a graph and its network, of their largest size where that is above 1."""

_TRACED, _COMPARED = 2, 16


@dataclass(frozen=True)
class _Made:
    """A file of the export, before it is written."""

    content: bytes
    about: ExportedFile


def export(
    run: str | Path,
    out: str | Path,
    *,
    formats: str | Sequence[str] = FORMATS[:1],
    stochastic: Stochastic = "refuse",
    records: Iterable[str | Path] = (),
    overwrite: bool = False,
) -> tuple[ModelCard, tuple[Path, ...]]:
    """Weights and card of a finished run: ``deconfound.export("runs/first", "mine", formats="safetensors,onnx")``.

    ``model.safetensors`` is the run's own file, byte for byte. ``model.onnx`` takes batches of any size as ``images``
    and gives ``logits``; it is compared with the network before anything is written. ``card.md`` and ``card.json`` say
    what the weights are, how they came to be and what they withstood, from the run's records.

    Args:
        run: a run folder with its record.
        out: a folder; other files in it stay as they are.
        formats: of ``FORMATS``, or their names joined by commas; onnx needs the extra ``export``.
        stochastic: what onnx does with a network that draws its predictions: refuse it, or write its deterministic
            surrogate as ``surrogate.onnx``, which no record is about.
        records: files of evaluation records; those in the run folder by default.
        overwrite: replace an export that lies at ``out``.

    Returns:
        The card, and the files that were written, the card's record last.

    Raises:
        InputError: bad input, before anything is written: an unfinished run, weights without a recipe, an unknown
            format, an export at ``out``, a record of other weights, a random network for onnx, a missing extra.
    """
    require(isinstance(run, str | Path), "run", type(run).__name__, "the folder of a run, as train leaves it")
    wanted = _formats(formats)
    if stochastic not in get_args(Stochastic):
        raise unknown_name("stochastic", str(stochastic), get_args(Stochastic))
    if "onnx" in wanted:
        check_graphs()
    folder = Path(out)
    _check_free(folder, overwrite=overwrite)
    loaded, training = _finished(run)
    rows, notes = evaluations_of(folder_of(run), loaded.digest, [Path(place) for place in records])
    made = [_made(name, run, loaded, stochastic) for name in wanted]
    name = folder_of(run).path.resolve().name
    card = model_card(name, loaded, training, rows, [part.about for part in made], notes)
    return card, _written(folder, made, card)


def _formats(formats: str | Sequence[str]) -> tuple[str, ...]:
    """The formats asked for, in the order of ``FORMATS``."""
    words = formats.split(",") if isinstance(formats, str) else list(formats)
    asked = [word.strip() for word in words]
    for word in asked:
        if word not in FORMATS:
            raise unknown_name("format", word, FORMATS)
    require(bool(asked), "format", formats, f"at least one of {', '.join(FORMATS)}")
    return tuple(name for name in FORMATS if name in asked)


def _check_free(folder: Path, *, overwrite: bool) -> None:
    above = next((place for place in (folder, *folder.parents) if place.exists()), folder)
    require(not above.is_file(), "out", str(folder), f"a folder; a file lies at {above}")
    require(not RunFolder(folder).exists(), "out", str(folder), "a folder of its own; a run lies here")
    found = [name for name in NAMES if (folder / name).exists()]
    rule = f"a folder without {', '.join(found)} (--overwrite replaces an export)"
    require(overwrite or not found, "out", str(folder), rule)


def _finished(run: str | Path) -> tuple[Loaded, TrainingRecord]:
    """The run and its record.

    Raises:
        InputError: no run, weights without a recipe, a run without its record or with another's.
    """
    folder = folder_of(run)
    if Path(run).is_dir() and folder.exists():
        rule = (
            f"a finished run: {folder.record.name} is missing (deconfound train {folder.recipe} --resume finishes it)"
        )
        require(folder.record.is_file(), "run", str(run), rule)
    loaded = load_run(run)
    rule = f"weights in their run folder: {folder.record} is missing, which says how they came to be"
    require(folder.record.is_file(), "run", str(run), rule)
    training = TrainingRecord.read(folder.record)
    assert loaded.recipe is not None  # load_run refuses weights without one
    same = training.recipe_digest == loaded.recipe.digest()
    require(same, "run", str(run), f"weights and {folder.record.name} of the same training; their recipes differ")
    return loaded, training


def _made(name: str, run: str | Path, loaded: Loaded, stochastic: Stochastic) -> _Made:
    if name == "onnx":
        return _graph(loaded, stochastic)
    place = Path(run)
    content = (RunFolder(place).model if place.is_dir() else place).read_bytes()
    computes = "the network that was trained; weights as the run keeps them"
    return _Made(content, _file(WEIGHTS, name, content, computes))


def _file(name: str, kind: str, content: bytes, computes: str) -> ExportedFile:
    digest = hashlib.sha256(content).hexdigest()
    return ExportedFile(name=name, format=kind, sha256=digest, size=len(content), computes=computes)


def _graph(loaded: Loaded, stochastic: Stochastic) -> _Made:
    """The network as a graph, compared with what it was made from."""
    assert loaded.shape is not None
    assert loaded.recipe is not None
    model, stands_in = _deterministic(loaded.model, stochastic)
    computes = f"{stands_in} Not the network that was trained" if stands_in else "the network that was trained"
    name = SURROGATE if stands_in else GRAPH
    about = {
        "about": computes,
        "architecture": loaded.recipe.model,
        "class_names": ", ".join(loaded.class_names or ()),
        "defence": loaded.recipe.recipe,
        "deconfound": machine.version("deconfound"),
        "input": f"images (B, {', '.join(map(str, loaded.shape))}), float32 in [0, 1]; normalisation is inside",
        "model_digest": loaded.digest,
        "stands_in": "yes" if stands_in else "no",
    }
    images = Streams(0, range(_COMPARED)).uniform(loaded.shape)
    content = to_graph(model, images[:_TRACED], about=about, name=name.removesuffix(".onnx"))
    difference = _difference(content, model, images)
    told = _file(name, "onnx", content, computes)
    more = {"stands_in": bool(stands_in), "difference": difference, "compared": _COMPARED}
    return _Made(content, told.model_copy(update=more))


def _deterministic(model: nn.Module, stochastic: Stochastic) -> tuple[nn.Module, str]:
    """What a graph can compute, and what that is where it is not the network itself.

    Raises:
        InputError: a random network, unless its surrogate is asked for and exists.
    """
    if not isinstance(model, StochasticClassifier):
        return model, ""
    kind = type(model).__name__
    if not isinstance(model, HasExpectation):
        rule = (
            f"safetensors alone: {kind} draws its predictions, which a graph cannot, and has no deterministic surrogate"
        )
        raise InputError("format", "onnx", rule)
    rule = (
        f"safetensors alone, or --stochastic surrogate: {kind} draws its predictions, which a graph cannot; "
        "the deterministic surrogate is another classifier, and no evaluation is about it"
    )
    require(stochastic == "surrogate", "format", "onnx", rule)
    surrogate = model.expectation()
    about = (type(surrogate).__doc__ or "A deterministic surrogate.").strip().splitlines()[0]
    return Headed(surrogate).eval(), f"{type(surrogate).__name__}. {about}"


def _difference(content: bytes, model: nn.Module, images: Tensor) -> float:
    """The largest difference of logits, also at other batch sizes than the traced one.

    Raises:
        InputError: they differ by more than rounding.
    """
    with torch.no_grad():
        expected = model(images)
    found = torch.cat([run_graph(content, images[:1]), run_graph(content, images[1:])])
    difference = float((found - expected).abs().max())
    allowed = TOLERANCE * max(1.0, float(expected.abs().max()))
    rule = f"a network whose graph gives the same logits to {allowed:.1e}; they differ by {difference:.1e}"
    require(difference <= allowed, "format", "onnx", rule)
    return difference


def _written(folder: Path, made: Sequence[_Made], card: ModelCard) -> tuple[Path, ...]:
    """The files; the card's record comes last onto the disk, so that it stands for a finished export."""
    kept = {part.about.name for part in made}
    for name in reversed(NAMES):  # of an export that is replaced
        if name not in kept:
            remove(folder / name)
    for part in made:
        write_bytes(folder / part.about.name, part.content)
    write_text(folder / CARD_TEXT, card_text(card))
    write_text(folder / CARD, card.to_json())
    return tuple(folder / name for name in (*(part.about.name for part in made), CARD_TEXT, CARD))
