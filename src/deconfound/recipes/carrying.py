"""Training one complete recipe on data that are loaded: its stages, then itself, into a run folder or in memory."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from deconfound import models
from deconfound.core.guards import seeded
from deconfound.core.protocols import ImageSource
from deconfound.core.streams import Streams
from deconfound.data import carve_validation
from deconfound.data.augment import build as build_augmentation
from deconfound.data.naming import without_place
from deconfound.errors import InputError, require, unknown_name
from deconfound.recipes import machine
from deconfound.recipes.beginning import begin
from deconfound.recipes.cafe import warn_of_radius
from deconfound.recipes.cautions import recipe_cautions, stage_cautions
from deconfound.recipes.compute import Compute, first_decides
from deconfound.recipes.entries import Stage
from deconfound.recipes.loading import build_model, load
from deconfound.recipes.players import facts_of
from deconfound.recipes.registry import build_objective
from deconfound.recipes.resolve import read_spec
from deconfound.recipes.schema import Recipe, differences, validated
from deconfound.recipes.stages import FOLDER, Ground, Plan, completed, finished, foreseen, planned, uses_of
from deconfound.recipes.stopping import Stopped, stop_requests
from deconfound.recipes.validation import check_selection, validator
from deconfound.records import TrainingRecord
from deconfound.store import CheckpointFile, JsonLines, RunFolder, remove, write_text, write_weights
from deconfound.store.journal import TensorBoardMirror
from deconfound.store.weights import digest_tensors
from deconfound.training import FitResult, Hooks, fit
from deconfound.training.checks import check_training
from deconfound.training.plan import check_shares

States = Mapping[str, Mapping[str, Tensor]]
_logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A finished training: the network in eval mode with the weights to keep, its record, and its folder if any.

    ``players`` are those of the objective, the network among them; none where the run was finished before.
    """

    model: nn.Module
    record: TrainingRecord
    path: Path | None
    players: Mapping[str, nn.Module] = field(default_factory=dict)


@dataclass(frozen=True)
class Work:
    """What a training and those of its stages have in common."""

    ground: Ground
    compute: Compute
    hooks: Hooks

    def carry_out(
        self,
        recipe: Recipe,
        folder: RunFolder | None,
        fabric: Fabric,
        *,
        resume: bool,
        overwrite: bool = False,
        ready: Mapping[str, Stage] | None = None,
        stage: str = "",
    ) -> Trained:
        """Train one recipe, its stages first; what is finished in the folder is taken as it is."""
        place = None if folder is None else folder.path
        plans = planned(recipe, place)
        task = _Task(recipe, self.ground, fabric, plans, ready or {})
        done = folder is not None and first_decides(
            fabric, lambda: _opened(folder, task, resume=resume, overwrite=overwrite)
        )
        if self.hooks.monitor is not None and fabric.is_global_zero:
            continued = folder is not None and resume and folder.has_checkpoint()
            if done or not continued:
                text = "finished before; nothing is left to do" if done else _announcement(recipe, self.ground.source)
                self.hooks.monitor.message(f"stage {stage}: {text}" if stage else text)
        if done and folder is not None:
            return Trained(model=load(folder.path), record=TrainingRecord.read(folder.record), path=folder.path)
        train = partial(self._stage, parent=folder, fabric=fabric, precision=recipe.precision)
        task.build_on(completed(plans, task.stages, ready or {}, train))
        return task.run(folder, self.hooks)

    def _stage(
        self, plan: Plan, earlier: Mapping[str, Stage], parent: RunFolder | None, fabric: Fabric, precision: str
    ) -> Stage:
        """Train one stage on the earlier ones, or continue it, or take it as it lies there."""
        recipe = plan.recipe
        assert recipe is not None  # a given one is not trained
        own = fabric
        if recipe.precision != precision:
            own = self.compute.fabric(recipe.precision)
            own.launch()
        folder = None if parent is None else RunFolder(parent.path / FOLDER / plan.name)
        try:
            made = self.carry_out(recipe, folder, own, resume=folder is not None, ready=earlier, stage=plan.name)
        except Stopped as stop:
            how = f", saved; {_how_to_continue(parent)}" if parent is not None else ""
            raise Stopped(stop.signal, f"stopped in stage {plan.name}{how}") from None
        fabric.barrier()  # the first process alone writes what all of them read now
        if folder is not None:  # from the disk, whether it was trained now or before, so that both go on alike
            return finished(str(folder.path), f"stages.{plan.name}", self.ground, earlier)
        for player in made.players.values():
            player.eval().float()
        digest = digest_tensors(dict(made.model.state_dict()))
        return Stage(recipe=recipe, model=made.model, players=made.players, shape=self.ground.shape, digest=digest)


def _announcement(recipe: Recipe, source: ImageSource) -> str:
    return (
        f"{recipe.recipe} on {source.name}: {len(source):,} images, {recipe.family} family (--set family=... changes "
        f"it), network {recipe.model}, {recipe.threat}, {recipe.epochs} epochs, seed {recipe.seed}"
    )


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
        if not folder.has_checkpoint() and not folder.record.is_file():  # from the beginning then
            remove(folder.metrics)
            folder.forget_epochs()
        return task.is_finished(folder)
    folder.prepare(overwrite=overwrite)
    write_text(folder.recipe, recipe.to_yaml())
    return False


class _Task:
    def __init__(
        self,
        recipe: Recipe,
        ground: Ground,
        fabric: Fabric,
        plans: tuple[Plan, ...],
        ready: Mapping[str, Stage],
    ) -> None:
        self.recipe, self.fabric, self.class_names, self.shape = recipe, fabric, ground.class_names, ground.shape
        self.data_digest = ground.digest
        self.data_name = ground.source.name
        self.source, self.validation = ground.source, None
        if recipe.selection.size:
            self.source, self.validation = carve_validation(ground.source, recipe.selection.size, recipe.seed)
        check_shares(recipe.batch_size, fabric.world_size)
        with seeded(recipe.seed):  # initial weights
            self.model = build_model(recipe, len(self.class_names), self.shape)
        check_selection(recipe, self.model)
        self.augmentation = build_augmentation(**recipe.augmentation.model_dump())
        self.augmentation(torch.zeros(1, *self.shape), Streams(0, [0]))  # what does not suit the images is refused here
        warn_of_radius(recipe)
        self.plans = plans
        self.build_on(foreseen(plans, ground, ready, fabric.world_size))
        check_training(self.objective.players(), recipe, len(self.source), fabric.world_size)
        count, new = len(ground.source), {name: one for name, one in self.stages.items() if name not in ready}
        own = recipe_cautions(recipe)
        for line in (*own, *stage_cautions(recipe, new, count)):  # of others, who made them said so
            _logger.warning(line)
        self.cautions = (*own, *stage_cautions(recipe, self.stages, count))
        for name in recipe.players:
            if name not in self.objective.players():
                raise unknown_name("players", name, self.objective.players())

    def build_on(self, stages: Mapping[str, Stage]) -> None:
        """Make the objective on these stages, the network as it begins."""
        self.stages = stages
        begin(self.model, self.recipe, stages)
        self.objective = build_objective(self.model, self.recipe, stages)

    def digest(self) -> str:
        """What decides the result: the recipe, and the content of data and stages."""
        return "-".join([self.recipe.digest(), self.data_digest, *(stage.digest for stage in self.stages.values())])

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
        for plan in self.plans:
            if plan.recipe is None and self.stages[plan.name].digest != record.stages[plan.name].model_digest:
                rule = f"the {plan.name} that the run was built on, {record.stages[plan.name].run}; the weights differ"
                raise InputError("resume", f"stages.{plan.name}={plan.given}", rule)
        return True

    def run(self, folder: RunFolder | None, hooks: Hooks) -> Trained:
        journal = None
        if folder is not None:
            if self.fabric.is_global_zero:
                journal = TensorBoardMirror(JsonLines(folder.metrics), folder.tensorboard)
            checkpointer = CheckpointFile(folder.path, self.digest())
            hooks = replace(hooks, journal=journal, checkpointer=checkpointer, keep=partial(self._keep, folder))
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
        model, players = self.model.eval().float(), self.objective.players()
        return Trained(model=model, record=record, path=folder.path if folder else None, players=players)

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
            warnings=(*self.cautions, *result.warnings),
            history=result.history,
            stages=uses_of(self.stages),
            machine=machine.describe(self.fabric.device),
        )

    def _keep(self, folder: RunFolder, epoch: int, states: States) -> None:
        """Keep the weights after so many epochs."""
        self._write_weights(folder.epoch(epoch), states, states["model"])

    def _write(self, folder: RunFolder, result: FitResult, record: TrainingRecord) -> None:
        states = {name: player.state_dict() for name, player in self.objective.players().items()}
        self._write_weights(folder, states, result.model)
        write_text(folder.record, record.to_json())

    def _write_weights(self, folder: RunFolder, states: States, model: Mapping[str, Tensor]) -> None:
        metadata = {
            "class_names": self.class_names,
            "data_digest": self.data_digest,
            "normalisation": self.recipe.normalisation.model_dump() if self.recipe.normalisation else None,
            "recipe": self.recipe.identity() | {"data": without_place(self.recipe.data)},
            "recipe_digest": self.recipe.digest(),
            "shape": self.shape,
        } | ({"stages": facts_of(self.stages)} if self.stages else {})
        players = {f"{name}/{key}": tensor for name, state in states.items() for key, tensor in state.items()}
        write_weights(folder.players, players, metadata)
        write_weights(folder.model, model, metadata)
