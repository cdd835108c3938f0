"""The training loop: the only place that calls ``backward`` and ``step``.

Shapes: B examples of this process's share of a batch.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, nullcontext

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from deconfound.core.guards import randomness_kept
from deconfound.core.protocols import ImageSource, Objective
from deconfound.core.streams import Streams
from deconfound.core.types import Batch, Loss, Progress, Step
from deconfound.errors import InputError
from deconfound.functional.hashing import name_key
from deconfound.training.averaging import NEVER, WeightAverage
from deconfound.training.checks import check_training, is_trained
from deconfound.training.compiling import compiled
from deconfound.training.distributed import (
    agreed,
    all_reduce,
    average_buffers,
    average_gradients,
    same_everywhere,
    same_on_all,
)
from deconfound.training.hooks import FitResult, Hooks
from deconfound.training.optim import build_optimizer, multiplier, set_learning_rate
from deconfound.training.plan import epoch_plan, steps_per_epoch
from deconfound.training.selection import copied, overfitting_warning
from deconfound.training.settings import LoopSettings
from deconfound.training.state import Meter, RunState
from deconfound.training.statistics import batches_for, forget, normalisers, standing_in

# Several processes agree on stopping and saving only so often: agreeing costs a message and a wait.
AGREE_EVERY = 8
# The screen is told at most this often (seconds): reading a loss waits for the device.
TELL_EVERY = 0.2


def fit(
    objective: Objective,
    source: ImageSource,
    settings: LoopSettings,
    fabric: Fabric | None = None,
    hooks: Hooks | None = None,
) -> FitResult:
    """Train an objective's players.

    Each batch: the objective's steps are taken lazily; a step evaluates its loss inside its scope, differentiates by
    its player's parameters only, averages gradients over processes, clips, and steps that player's optimiser.
    Randomness (order, augmentation, attacks, dropout) is keyed by seed, epoch, step and example index, so a resumed
    run continues bit for bit on the same processor, and several processes see the batches, attacks and augmentation
    that one would (BatchNorm statistics and dropout masks belong to each process). Global random state is put back.

    Args:
        objective: see ``core.protocols.Objective``; its players are trained in place.
        source: the training images.
        settings: validated settings; ``batch_size`` is global.
        fabric: devices and processes; one processor by default.
        hooks: what to talk to.

    Raises:
        InputError: a batch size that the processes cannot share evenly, or a share of one image for BatchNorm;
            averaging where the model is not the one player that is trained.
        FloatingPointError: a loss or a weight is not finite; the message names it, epoch and step.
    """
    run = _Run(objective, source, settings, fabric or Fabric(accelerator="cpu", devices=1), hooks or Hooks())
    compiling = compiled(run.state.players.values()) if settings.compile else nullcontext()
    with randomness_kept(run.fabric.device), compiling:
        return run.train()


class _Run:
    def __init__(
        self, objective: Objective, source: ImageSource, settings: LoopSettings, fabric: Fabric, hooks: Hooks
    ) -> None:
        self.objective, self.source, self.settings, self.fabric, self.hooks = objective, source, settings, fabric, hooks
        players = objective.players()
        check_training(players, settings, len(source), fabric.world_size)
        for player in players.values():
            _prepare(player, settings, fabric)
        same_everywhere(fabric, players.values())
        optimizers = {
            name: build_optimizer(settings.players.get(name, settings.optimizer), player.parameters(), settings.lr)
            for name, player in players.items()
            if is_trained(player)
        }
        average = None
        if settings.averaging.name != "none":
            average = WeightAverage(settings.averaging, players["model"])
        self.state = RunState(players, optimizers, average)
        self.steps = steps_per_epoch(len(source), settings.batch_size)
        self.saved_at = self.told_at = self.clock = time.monotonic()

    def train(self) -> FitResult:
        self._resume()
        stopped = False
        self._tell(start=True)
        while not self.state.finished and not stopped:
            stopped = self._epoch()
            if not stopped:
                self._close_epoch()
        if self.hooks.monitor:
            self.hooks.monitor.finish()
        self._save()
        return self._result(stopped)

    def _resume(self) -> None:
        saved = self.hooks.checkpointer.load() if self.hooks.checkpointer else None
        place = (-1, -1) if saved is None else (saved["epoch"], saved["step"])
        if not same_on_all(self.fabric, place):
            rule = "a run folder that all processes share, so that they continue from the same place"
            found = "no checkpoint" if saved is None else f"epoch {place[0] + 1}, step {place[1]}"
            shown = f"{found} on process {self.fabric.global_rank}"
            raise InputError("resume", shown, rule)
        if saved is not None:
            self.state.restore(saved, self.fabric.global_rank, self.fabric.world_size)

    def _epoch(self) -> bool:
        state, settings = self.state, self.settings
        world, plan = self.fabric.world_size, self._plan()
        for player in state.players.values():
            player.train()
        for batch in self.source.batches(plan[state.step :], self.fabric.device):
            progress = Progress(epoch=state.epoch, epochs=settings.epochs, step=state.step, steps=self.steps)
            self._batch(batch, progress)
            state.step += 1
            self._tell()
            if world > 1 and (state.epoch * self.steps + state.step) % AGREE_EVERY:
                continue
            late = time.monotonic() - self.saved_at >= self.hooks.checkpoint_seconds
            stop, save = agreed(self.fabric, self.hooks.should_stop(), late)
            if stop:
                return True
            if save:
                self._save()
        return False

    def _begin(self, batch: Batch, progress: Progress, *purpose: str) -> tuple[Batch, Iterator[Step]]:
        settings = self.settings
        key = name_key("step", settings.seed, progress.epoch, progress.step, self.fabric.global_rank)
        torch.manual_seed(key)  # for layers that draw from the global state, such as dropout
        streams = Streams(settings.seed, batch.index).fold("epoch", progress.epoch, *purpose)
        batch = self._augmented(batch, streams)
        return batch, iter(self.objective.steps(batch, progress, streams.fold("objective")))

    def _batch(self, batch: Batch, progress: Progress) -> None:
        rate = self.settings.lr * multiplier(self.settings.schedule, progress)
        batch, steps = self._begin(batch, progress)
        while (step := self._next(steps)) is not None:
            self._step(step, batch, rate)
        # What is not trained is equal already, and a mean over processes could round it.
        average_buffers(self.fabric, [self.state.players[name] for name in self.state.optimizers])
        if self.state.average:
            self.state.average.after_step(self.state.players["model"])
        self.state.images += len(batch.labels) * self.fabric.world_size

    def _augmented(self, batch: Batch, streams: Streams) -> Batch:
        images = batch.images
        if self.hooks.augmentation is not None:
            images = self.hooks.augmentation(images, streams.fold("augmentation"))
        if self.settings.precision == "64-true":
            images = images.double()
        if self.settings.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        return Batch(images, batch.labels, batch.index)

    def _next(self, steps: Iterator[Step]) -> Step | None:
        with self.fabric.autocast():
            return next(steps, None)

    def _step(self, step: Step, batch: Batch, rate: float) -> None:
        player, optimizer = self.state.players[step.player], self.state.optimizers[step.player]
        parameters = [p for p in player.parameters() if p.requires_grad]
        optimizer.zero_grad(set_to_none=True)
        with ExitStack() as stack:
            with self.fabric.autocast():
                stack.enter_context(step.scope())
                loss = step.loss()
            loss.total.backward(inputs=parameters)
        average_gradients(self.fabric, parameters)
        if self.settings.clip_norm is not None:
            nn.utils.clip_grad_norm_(parameters, self.settings.clip_norm)
        set_learning_rate(optimizer, rate)
        optimizer.step()
        self.state.meter.add(_measured(step.player, loss, batch.labels), len(batch.labels))

    def _close_epoch(self) -> None:
        state, settings = self.state, self.settings
        progress = Progress(epoch=state.epoch, epochs=settings.epochs)
        if state.average:
            state.average.after_epoch(state.players["model"], progress)
        row = {"epoch": float(state.epoch), "lr": settings.lr * multiplier(settings.schedule, progress)}
        row |= self._means()
        self._normalise_average()
        row |= self._validated(progress)
        state.history.append(row)
        warning = overfitting_warning(state.history)
        if warning and not state.warnings:
            state.warnings.append(warning)
            self._message(warning)
        score = row.get("validation_robust", row.get("validation_clean"))
        if score is not None and (settings.selection.keep == "best" or settings.selection.patience is not None):
            state.best.offer(state.epoch, score, state.kept())
        self._write_down(row)
        state.finished = state.epoch + 1 >= settings.epochs or state.best.exhausted(settings.selection, state.epoch)
        if state.finished and state.average and not state.average.ready():  # patience ended it before
            state.warnings.append(NEVER)
            self._message(NEVER)
        self._keep()
        state.epoch, state.step, state.meter = state.epoch + 1, 0, Meter()

    def _normalise_average(self) -> None:
        """BatchNorm statistics of the average, from the images and passes by which the objective would train it."""
        state, settings, model = self.state, self.settings, self.state.players["model"]
        if state.average is None or not state.average.ready() or not normalisers(model):
            return
        plan = self._plan()[: batches_for(settings.batch_size)]
        with standing_in(model, state.average.model):
            # The first batch comes twice: attacks on it look through statistics, which are its own the second time.
            for step, batch in enumerate(self.source.batches([plan[0], *plan], self.fabric.device)):
                if step <= 1:
                    forget(model)
                place = Progress(epoch=state.epoch, epochs=settings.epochs, step=max(step - 1, 0), steps=self.steps)
                _, steps = self._begin(batch, place, "average")
                while (one := self._next(steps)) is not None:
                    with self.fabric.autocast():
                        one.loss()  # outside its scope: at the average, not at weights perturbed from it
                average_buffers(self.fabric, [model])

    def _plan(self) -> list[Tensor]:
        settings, fabric = self.settings, self.fabric
        place = {"rank": fabric.global_rank, "world": fabric.world_size}
        return epoch_plan(len(self.source), settings.batch_size, settings.seed, self.state.epoch, **place)

    def _keep(self) -> None:
        state, every = self.state, self.settings.keep_every
        if self.hooks.keep is None or every is None or not self.fabric.is_global_zero:
            return
        if state.finished or (state.epoch + 1) % every == 0:
            self.hooks.keep(state.epoch + 1, state.kept())

    def _write_down(self, row: Mapping[str, float]) -> None:
        journal = self.hooks.journal
        if journal is None or not self.fabric.is_global_zero:
            return
        if all(entry["epoch"] != row["epoch"] for entry in journal.entries()):  # killed after writing, before saving
            journal.append(row)

    def _validated(self, progress: Progress) -> dict[str, float]:
        last = progress.epoch + 1 >= progress.epochs
        if self.hooks.validate is None or not (last or (progress.epoch + 1) % self.settings.selection.every == 0):
            return {}
        return dict(self.hooks.validate(self.state.kept_model()))

    def _means(self) -> dict[str, float]:
        means = self.state.meter.means()
        if self.fabric.world_size > 1:
            values = torch.tensor(list(means.values()), dtype=torch.float64, device=self.fabric.device)
            means = dict(zip(means, all_reduce(self.fabric, values).tolist(), strict=True))
        self._check_finite(means)
        return means

    def _check_finite(self, means: Mapping[str, float]) -> None:
        bad = [name for name, value in means.items() if not math.isfinite(value)]
        if not bad and not self._weights_are_finite():
            bad = ["a weight"]
        if bad:
            place = f"epoch {self.state.epoch + 1}, step {self.state.step}"
            raise FloatingPointError(f"training diverged: {', '.join(bad)} is not finite by {place}; lower lr")

    def _save(self) -> None:
        now = time.monotonic()
        self.state.seconds += now - self.clock
        self.clock = self.saved_at = now
        meters = self.state.meter.of_all(self.fabric.device)  # from all processes, whichever of them writes
        if self.hooks.checkpointer is None or not self.fabric.is_global_zero:
            return
        # What is not finite is not saved, and reported by all processes at the epoch's end.
        means = [mean for meter in meters for mean in meter.means().values()]
        if all(map(math.isfinite, means)) and self._weights_are_finite():
            self.hooks.checkpointer.save(self.state.to_dict(meters))

    def _weights_are_finite(self) -> bool:
        tensors = (t for player in self.state.players.values() for t in player.state_dict().values())
        return all(bool(t.isfinite().all()) for t in tensors if t.is_floating_point())

    def _tell(self, *, start: bool = False) -> None:
        monitor, state = self.hooks.monitor, self.state
        if monitor is None or not self.fabric.is_global_zero:
            return
        done = state.epoch * self.steps + state.step
        if start:
            monitor.start("training", self.settings.epochs * self.steps, done)
        elif time.monotonic() - self.told_at >= TELL_EVERY:
            self.told_at = time.monotonic()
            means = state.meter.means()
            seconds = state.seconds + self.told_at - self.clock
            shown = {"epoch": float(state.epoch + 1)}
            shown |= {name: means[name] for name in ("loss", "accuracy") if name in means}
            monitor.update(done, shown | {"images/s": state.images / max(seconds, 1e-9)})

    def _message(self, text: str) -> None:
        if self.hooks.monitor and self.fabric.is_global_zero:
            self.hooks.monitor.message(text)

    def _result(self, stopped: bool) -> FitResult:
        state = self.state
        best = self.settings.selection.keep == "best" and state.best.state is not None
        kept = state.best.state if best and state.best.state is not None else state.kept()
        return FitResult(
            players=copied(kept),
            history=tuple(state.history),
            warnings=tuple(state.warnings),
            selected_epoch=state.best.epoch if best else state.epoch - 1,
            epochs_run=state.epoch,
            seconds=state.seconds,
            images_per_second=state.images / max(state.seconds, 1e-9),
            resumed=state.resumed,
            stopped=stopped,
        )


def _prepare(player: nn.Module, settings: LoopSettings, fabric: Fabric) -> None:
    player.to(device=fabric.device, dtype=torch.float64 if settings.precision == "64-true" else None)
    if settings.channels_last:
        player.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def _measured(player: str, loss: Loss, labels: Tensor) -> dict[str, Tensor]:
    values = {"loss": loss.total, **loss.parts}
    if loss.logits is not None:
        values["accuracy"] = (loss.logits.argmax(dim=1) == labels).double().mean()
    return values if player == "model" else {f"{player}_{name}": value for name, value in values.items()}
