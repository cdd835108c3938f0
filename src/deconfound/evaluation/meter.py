"""Counts what passes through a model, in images, from outside of whoever calls it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from deconfound.core.protocols import Attack, Classifier, ClimbsItsOwn, StochasticClassifier
from deconfound.core.streams import Streams


class Cost(NamedTuple):
    """Wall and processor time in seconds; images forwarded, and images through which a gradient was taken."""

    seconds: float = 0.0
    cpu_seconds: float = 0.0
    forwards: int = 0
    backwards: int = 0

    def plus(self, other: Cost) -> Cost:
        """The sum."""
        seconds, cpu_seconds = self.seconds + other.seconds, self.cpu_seconds + other.cpu_seconds
        return Cost(seconds, cpu_seconds, self.forwards + other.forwards, self.backwards + other.backwards)

    def minus(self, other: Cost) -> Cost:
        """The difference."""
        return self.plus(Cost(-other.seconds, -other.cpu_seconds, -other.forwards, -other.backwards))


class Meter:
    """Counts the calls of classifiers.

    A module is heard by forward hooks, so that attacks see the module itself; a gradient counts when it reaches the
    output, not when it might have been asked for. A call that consists of calls of others that are heard is theirs, so
    that nothing counts twice.
    """

    def __init__(self) -> None:
        self._forwards = 0
        self._backwards = 0

    @contextmanager
    def counting(self, model: Classifier) -> Iterator[Classifier]:
        """The classifier to call inside."""
        if isinstance(model, StochasticClassifier):
            with self._counting_draws(model):
                yield model
            return
        if not isinstance(model, nn.Module):

            def counted(images: Tensor) -> Tensor:
                before = self._forwards
                logits = model(images)
                self._heard(logits, before)
                return logits

            yield counted
            return
        begun: list[int] = []  # calls of a module may lie within each other
        handles = (
            model.register_forward_pre_hook(lambda *_: begun.append(self._forwards)),
            model.register_forward_hook(lambda module, args, output: self._heard(output, begun.pop())),
        )
        try:
            yield model
        finally:
            for handle in handles:
                handle.remove()

    @contextmanager
    def climbing(self, attack: Attack) -> Iterator[Attack]:
        """The attack to call inside; what it climbs in place of what it is called on is heard too."""
        if not isinstance(attack, ClimbsItsOwn) or attack.surrogate is None:
            yield attack
            return
        with self.counting(attack.surrogate) as counted:
            yield attack if counted is attack.surrogate else attack.on(counted)

    @contextmanager
    def _counting_draws(self, model: Any) -> Iterator[None]:
        """Every draw counts; the model stays itself, with a method of its own on top of its class's meanwhile."""
        original = model.draw

        def draw(images: Tensor, streams: Streams, draws: int) -> Tensor:
            before = self._forwards
            logits: Tensor = original(images, streams, draws)
            self._count(logits, draws * len(images), before)
            return logits

        had = vars(model).get("draw")
        vars(model)["draw"] = draw
        try:
            yield
        finally:
            vars(model).pop("draw")
            if had is not None:
                vars(model)["draw"] = had

    def read(self) -> Cost:
        """Everything so far, with the clocks; the difference of two readings is the cost of what lay between."""
        return Cost(time.perf_counter(), time.process_time(), self._forwards, self._backwards)

    def _heard(self, output: Any, before: int) -> None:
        if isinstance(output, Tensor) and output.ndim:
            self._count(output, output.shape[0], before)

    def _count(self, output: Tensor, count: int, before: int) -> None:
        """A call that began at ``before``, unless others were heard since."""
        if self._forwards != before:
            return
        self._forwards += count
        if torch.is_grad_enabled() and output.requires_grad:
            output.register_hook(lambda gradient: self._went_back(count))

    def _went_back(self, count: int) -> None:
        self._backwards += count
