"""The job behind ``deconfound train``."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import nn

from deconfound import models
from deconfound.core.guards import seeded
from deconfound.core.protocols import ImageSource, Monitor
from deconfound.core.streams import Streams
from deconfound.data import carve_validation
from deconfound.data import load as load_data
from deconfound.data.augment import build as build_augmentation
from deconfound.data.naming import as_file_name, without_place
from deconfound.errors import InputError, require, unknown_name
from deconfound.recipes import machine
from deconfound.recipes.compute import Compute, first_decides
from deconfound.recipes.loading import build_model, load
from deconfound.recipes.processes import process_rank
from deconfound.recipes.registry import build_objective
from deconfound.recipes.resolve import parse_changes, read_spec, resolve
from deconfound.recipes.schema import Recipe, differences, validated
from deconfound.recipes.stopping import Stopped, stop_requests
from deconfound.recipes.validation import validator
from deconfound.records import TrainingRecord
from deconfound.store import CheckpointFile, JsonLines, RunFolder, write_text, write_weights
from deconfound.store.journal import TensorBoardMirror
from deconfound.training import FitResult, Hooks, fit
from deconfound.training.plan import check_shares

DEFAULT_DATA = "digits"


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A finished training: the network in eval mode with the weights to keep, its record, and its folder if any."""

    model: nn.Module
    record: TrainingRecord
    path: Path | None


def train(
    recipe: str | Path | Mapping[str, Any],
    *,
    data: str | None = None,
    model: str | None = None,
    out: str | Path | None = None,
    changes: Iterable[str] | Mapping[str, Any] = (),
    resume: bool = False,
    overwrite: bool = False,
    compute: Compute | None = None,
    monitor: Monitor | None = None,
    checkpoint_seconds: float = 30.0,
) -> Trained:
    """Train a recipe.

    Args:
        recipe: a name, a YAML file, or a mapping with the key ``recipe``.
        data: data set; the recipe's own, else the bundled digits.
        model: network in place of the recipe's.
        out: run folder; None trains in memory and writes nothing.
        changes: ``key=value`` words or a mapping of dotted keys, the last word on every setting.
        resume: continue from ``out``'s checkpoint (from the beginning where there is none).
        overwrite: replace the run in ``out``.
        compute: devices and processes.
        monitor: shows progress.
        checkpoint_seconds: time between checkpoints; 0 saves after every step. It does not change the result.

    Raises:
        InputError: bad input, before anything is written.
        Stopped: SIGTERM or SIGINT arrived; the state is saved.
        FloatingPointError: the loss is not finite.
    """
    compute = compute or Compute()
    spec = read_spec(recipe)
    wanted = parse_changes(changes) | ({"model": model} if model else {})
    require(out is not None or not (resume or overwrite), "out", out, "a run folder, to resume or overwrite")
    name = data or wanted.get("data") or spec.get("data") or DEFAULT_DATA
    draft = resolve(spec, data=name, family=_family(spec, wanted) or "generic", changes=wanted)
    folder = RunFolder(out) if out is not None else None
    if folder is not None and process_rank() == 0:
        folder.check(resume=resume, overwrite=overwrite)
    fabric = compute.fabric(draft.precision)
    fabric.launch()
    loaded = load_data(name, size=draft.image_size, workers=compute.workers, parts=("train",))
    family = _family(spec, wanted) or loaded.family
    resolved = resolve(spec, data=name, family=family, changes=wanted)
    if resolved.image_size != draft.image_size:  # of the family, which only the data told
        loaded = load_data(name, size=resolved.image_size, workers=compute.workers, parts=("train",))
    assert loaded.train is not None  # load refuses data without the part that is asked for
    task = _Task(resolved, loaded.train, loaded.class_names, loaded.shape, fabric)
    done = folder is not None and first_decides(
        fabric, lambda: _opened(folder, task, resume=resume, overwrite=overwrite)
    )
    if monitor is not None and fabric.is_global_zero:
        continued = folder is not None and resume and folder.has_checkpoint()
        if done or not continued:
            monitor.message("finished before; nothing is left to do" if done else _announcement(resolved, loaded.train))
    if done and folder is not None:
        return Trained(model=load(folder.path), record=TrainingRecord.read(folder.record), path=folder.path)
    return task.run(folder, Hooks(monitor=monitor, checkpoint_seconds=checkpoint_seconds))


def _announcement(recipe: Recipe, source: ImageSource) -> str:
    return (
        f"{recipe.recipe} on {source.name}: {len(source):,} images, {recipe.family} family (--set family=... changes "
        f"it), network {recipe.model}, {recipe.threat}, {recipe.epochs} epochs, seed {recipe.seed}"
    )


def default_run(recipe: str, data: str | None = None) -> Path:
    """The folder of a run that was given none: ``runs/RECIPE-DATA``.

    >>> str(default_run("pgd-at"))
    'runs/pgd-at-digits'
    >>> str(default_run("pgd-at", "data/mnist+patch:rho=1/10"))
    'runs/pgd-at-mnist+patch-rho=1-10'
    """
    spec = read_spec(recipe)
    name = spec["recipe"] if Path(recipe).name == "recipe.yaml" else Path(recipe).stem
    return Path("runs") / f"{name}-{as_file_name(str(data or spec.get('data') or DEFAULT_DATA))}"


def _family(spec: Mapping[str, Any], changes: Mapping[str, Any]) -> str | None:
    return changes.get("family") or spec.get("family")


def _how_to_continue(folder: RunFolder) -> str:
    recipe, place = (shlex.quote(str(path)) for path in (folder.recipe, folder.path))
    return f"continue with: deconfound train {recipe} --out {place} --resume"


def _opened(folder: RunFolder, task: _Task, *, resume: bool, overwrite: bool) -> bool:
    """Make the folder ready; says whether a finished run of this recipe and data lies there already.

    Raises:
        InputError: the run there was started with another recipe, or on other data.
    """
    recipe = task.recipe
    if resume and folder.exists():
        before = validated(read_spec(folder.recipe), str(folder.recipe))
        if other := differences(recipe, before):
            rule = f"the recipe that the run was started with: {other[1]}; {_how_to_continue(folder)}"
            raise InputError("resume", other[0], rule)
        if not folder.has_checkpoint():  # from the beginning then
            folder.metrics.unlink(missing_ok=True)
        return task.is_finished(folder)
    folder.prepare(overwrite=overwrite)
    write_text(folder.recipe, recipe.to_yaml())
    return False


class _Task:
    def __init__(
        self,
        recipe: Recipe,
        source: ImageSource,
        class_names: tuple[str, ...],
        shape: tuple[int, int, int],
        fabric: Fabric,
    ) -> None:
        self.recipe, self.fabric, self.class_names, self.shape = recipe, fabric, class_names, shape
        self.data_digest = source.digest()
        self.data_name = source.name
        self.source, self.validation = source, None
        if recipe.selection.size:
            self.source, self.validation = carve_validation(source, recipe.selection.size, recipe.seed)
        check_shares(recipe.batch_size, fabric.world_size)
        with seeded(recipe.seed):  # initial weights
            self.model = build_model(recipe, len(class_names), shape)
        self.augmentation = build_augmentation(**recipe.augmentation.model_dump())
        self.augmentation(torch.zeros(1, *shape), Streams(0, [0]))  # what does not suit the images is refused here
        self.objective = build_objective(self.model, recipe)
        for name in recipe.players:
            if name not in self.objective.players():
                raise unknown_name("players", name, self.objective.players())

    def digest(self) -> str:
        """What decides the result: the recipe, and the content of the data."""
        return f"{self.recipe.digest()}-{self.data_digest}"

    def is_finished(self, folder: RunFolder) -> bool:
        """Whether the run in the folder is complete: nothing is left to do or to write.

        Raises:
            InputError: it was trained on other data.
        """
        if not folder.record.is_file():
            return False
        record = TrainingRecord.read(folder.record)
        rule = f"the data that the run was trained on, {record.data}; the content differs"
        require(record.data_digest == self.data_digest, "resume", self.data_name, rule)
        return True

    def run(self, folder: RunFolder | None, hooks: Hooks) -> Trained:
        journal = None
        if folder is not None:
            if self.fabric.is_global_zero:
                journal = TensorBoardMirror(JsonLines(folder.metrics), folder.tensorboard)
            hooks = replace(hooks, journal=journal, checkpointer=CheckpointFile(folder.path, self.digest()))
        if self.validation is not None:
            hooks = replace(hooks, validate=validator(self.recipe, self.validation, self.fabric))
        with stop_requests() as requested:
            hooks = replace(hooks, augmentation=self.augmentation, should_stop=lambda: bool(requested()))
            try:
                result = fit(self.objective, self.source, self.recipe, self.fabric, hooks)
            finally:
                if journal is not None:
                    journal.close()
            if result.stopped:
                how = f", saved; {_how_to_continue(folder)}" if folder else ""
                raise Stopped(requested(), f"stopped in epoch {result.epochs_run + 1} of {self.recipe.epochs}{how}")
        for name, player in self.objective.players().items():
            models.fit_state(player, result.players[name], f"training result: {name}")
        record = self._record(result)
        if folder is not None and self.fabric.is_global_zero:
            self._write(folder, result, record)
        # Images are float32, so a network trained in float64 is handed on, and loaded, in float32.
        return Trained(model=self.model.eval().float(), record=record, path=folder.path if folder else None)

    def _record(self, result: FitResult) -> TrainingRecord:
        row = result.history[result.selected_epoch] if result.selected_epoch is not None and result.history else {}
        return TrainingRecord(
            recipe=self.recipe.model_dump(mode="json"),
            recipe_digest=self.recipe.digest(),
            data=self.data_name,
            data_digest=self.data_digest,
            class_names=self.class_names,
            seed=self.recipe.seed,
            epochs_run=result.epochs_run,
            selected_epoch=result.selected_epoch,
            selection=self.recipe.selection.keep,
            validation={key: value for key, value in row.items() if key.startswith("validation_")},
            parameters=sum(parameter.numel() for parameter in self.model.parameters()),
            seconds=result.seconds,
            images_per_second=result.images_per_second,
            resumed=result.resumed,
            warnings=result.warnings,
            history=result.history,
            machine=machine.describe(self.fabric.device),
        )

    def _write(self, folder: RunFolder, result: FitResult, record: TrainingRecord) -> None:
        metadata = {
            "class_names": self.class_names,
            "data_digest": self.data_digest,
            "normalisation": self.recipe.normalisation.model_dump() if self.recipe.normalisation else None,
            "recipe": self.recipe.identity() | {"data": without_place(self.recipe.data)},
            "recipe_digest": self.recipe.digest(),
            "shape": self.shape,
        }
        players = {
            f"{name}/{key}": tensor
            for name, player in self.objective.players().items()
            for key, tensor in player.state_dict().items()
        }
        write_weights(folder.players, players, metadata)
        write_weights(folder.model, result.model, metadata)
        write_text(folder.record, record.to_json())
