"""What a model card says, gathered from a run and the records about it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from deconfound.core.protocols import StochasticClassifier
from deconfound.errors import InputError
from deconfound.recipes import machine
from deconfound.recipes.loading import Loaded
from deconfound.recipes.reading import records_in
from deconfound.recipes.registry import entry_of
from deconfound.recipes.resolve import about
from deconfound.records import CardEvaluation, EvaluationRecord, ExportedFile, ModelCard, TrainingRecord
from deconfound.reporting.strength import cautions
from deconfound.store import RunFolder

FIELD = "record"


def evaluations_of(
    run: RunFolder, digest: str, files: Sequence[Path]
) -> tuple[tuple[CardEvaluation, ...], tuple[str, ...]]:
    """The evaluations of these weights in some files, or else in the run folder; and what was left out there.

    Args:
        run: looked through where no files are given.
        digest: of the weights; records of others do not belong on their card.
        files: given by the user.

    Raises:
        InputError: a given file that is missing, holds no evaluation, or none of these weights.
    """
    rows: list[CardEvaluation] = []
    notes: list[str] = []
    for file in files or sorted(run.path.glob("*.json")):
        found = _evaluations(file, given=bool(files))
        own = [record for record in found if record.model_digest == digest]
        if files and not own:
            theirs = found[0].model_digest[:16]
            rule = f"a record of these weights, model_digest {digest[:16]}...; it is about others, {theirs}..."
            raise InputError(FIELD, str(file), rule)
        if found and not own:
            notes.append(f"Left out: {file.name} in the run folder is about other weights.")
        rows += [CardEvaluation.of(record, file.name, _cautions(record)) for record in own]
    return tuple(rows), tuple(notes)


def _evaluations(file: Path, *, given: bool) -> list[EvaluationRecord]:
    if given and not file.is_file():
        raise InputError(FIELD, str(file), "a file that exists, as deconfound evaluate writes it")
    plain = [data for data in records_in(file, FIELD) or () if data["kind"] == EvaluationRecord.expected_kind]
    if given and not plain:
        raise InputError(FIELD, str(file), "an evaluation record, as deconfound evaluate writes it")
    return [EvaluationRecord.from_json(json.dumps(data), str(file)) for data in plain]


def _cautions(record: EvaluationRecord) -> tuple[str, ...]:
    return tuple(f"{before} these images: {after}." for before, after in cautions(record))


def model_card(
    name: str,
    loaded: Loaded,
    training: TrainingRecord,
    rows: tuple[CardEvaluation, ...],
    files: Sequence[ExportedFile],
    notes: tuple[str, ...],
) -> ModelCard:
    """The card of a run."""
    recipe, shape = loaded.recipe, loaded.shape
    assert recipe is not None
    assert shape is not None
    plain = training.recipe | {"data": recipe.data}  # the weights' own copy does not say where the data lie
    return ModelCard(
        name=name,
        defence=recipe.recipe,
        about=about(recipe.recipe),
        adversarial=entry_of(recipe.objective.name).adversarial,
        random=isinstance(loaded.model, StochasticClassifier),
        shape=shape,
        model_digest=loaded.digest,
        training=training.model_copy(update={"recipe": plain, "history": ()}),
        evaluations=rows,
        files=tuple(files),
        machine=machine.describe(),
        notes=notes,
    )
