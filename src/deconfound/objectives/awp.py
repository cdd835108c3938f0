"""Adversarial weight perturbation around any objective with an adversarial example (Wu et al. 2020, arXiv 2004.05884).

Shapes: a weight w and its gradient g have any one shape.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, nullcontext
from dataclasses import replace

import torch
from torch import Tensor, nn

from deconfound.core.estimators import averaged
from deconfound.core.guards import buffers_kept, randomness_kept
from deconfound.core.protocols import AdversarialObjective
from deconfound.core.streams import Streams
from deconfound.core.types import Batch, DeclaredAttack, Loss, Progress, Step
from deconfound.errors import InputError, require
from deconfound.functional.norms import relative_ascent

PLAYER = "model"


class WeightPerturbed:
    """A host's step of the model, differentiated at w + gamma |w| g / |g|, g = grad of the host's own loss at w.

    Per batch: the host crafts x~ at w; for its step of the model g is taken there, every tensor with more than one
    dimension moves by its gamma |w| g / |g|, loss and gradient are evaluated, and the saved w is put back bit for bit
    before the optimiser steps (so also before weight decay). Steps of other players, such as the style branch of
    CausalAdv, are the host's own, as are ``craft``, ``loss`` and the declared attacks.

    The ascent is a look ahead that leaves nothing behind: the model's buffers (BatchNorm statistics) and the global
    random state come back before the loss is evaluated, which then moves the statistics once, at the perturbed weights,
    as in the authors' code, whose ascent is on a copy. With gamma = 0 the host is met exactly. What a host computed
    before its step at w, such as the clean pass of CausalAdv, is of no use at other weights: its loss makes it again.
    The statistics took that pass in at w, and do not again; only CausalAdv's adversarial images move them perturbed.

    Several processes take g as the mean over their shares of the batch, as one process would: all perturb alike.

    Args:
        objective: the host.
        gamma: length of the perturbation, a share of each weight's norm, at least 0; 0.005 with TRADES, 0.01 with
            PGD-AT in the paper.
        warmup: share of the epochs before the first perturbation, in [0, 1].

    Raises:
        InputError: a host without an adversarial example, a setting out of range.

    Departures from the authors' code: the weights are saved and put back (theirs: w + v - v after the step, which is
    not w, and weight decay of w + v); the host's own loss is ascended whatever the host; 1e-20 does not stand beside
    |g|, a zero gradient gives a zero step.
    """

    def __init__(self, objective: AdversarialObjective, gamma: float = 0.005, warmup: float = 0.0) -> None:
        if not isinstance(objective, AdversarialObjective):
            raise InputError("awp", type(objective).__name__, "an objective with an adversarial example")
        require(0 <= gamma < float("inf"), "gamma", gamma, "a number of at least 0")
        require(0 <= warmup <= 1, "warmup", warmup, "a share of training in [0, 1]")
        self.objective, self.gamma, self.warmup = objective, gamma, warmup

    def players(self) -> Mapping[str, nn.Module]:
        """The host's."""
        return self.objective.players()

    def craft(self, batch: Batch, progress: Progress, streams: Streams) -> Tensor:
        """The host's adversarial images at the unperturbed weights, (B, C, H, W)."""
        return self.objective.craft(batch, progress, streams)

    def loss(self, batch: Batch, adversarial: Tensor, progress: Progress, streams: Streams) -> Loss:
        """The host's loss at the weights as they are; the perturbation is the scope of the step."""
        return self.objective.loss(batch, adversarial, progress, streams)

    def steps(self, batch: Batch, progress: Progress, streams: Streams) -> Iterator[Step]:
        """The host's steps, that of the model under the perturbation."""
        steps = self.objective.steps(batch, progress, streams)
        gamma = self.gamma if progress.epoch / progress.epochs >= self.warmup else 0.0
        with closing(steps) if isinstance(steps, Generator) else nullcontext():
            for step in steps:
                yield self._perturbed(step, gamma) if step.player == PLAYER and gamma > 0 else step

    def _perturbed(self, step: Step, gamma: float) -> Step:
        model = self.players()[PLAYER]

        @contextmanager
        def scope() -> Iterator[None]:
            with step.scope(), perturbed(model, step.loss, gamma):
                yield

        return replace(step, scope=scope)

    def declared_attacks(self) -> Sequence[DeclaredAttack]:
        """The host's."""
        return self.objective.declared_attacks()


@contextmanager
def perturbed(model: nn.Module, loss: Callable[[], Loss], gamma: float) -> Iterator[None]:
    """The model's weights at w + gamma |w| g / |g| inside, g = grad of the loss at w; w bit for bit afterwards.

    Args:
        model: its parameters with more than one dimension that want a gradient are moved.
        loss: what is ascended; evaluated once, and what that changes in the model's buffers and the random state is
            undone.
        gamma: share of each weight's norm.
    """
    weights = [p for p in model.parameters() if p.requires_grad and p.ndim > 1]
    with buffers_kept(model):
        steps = _ascent(loss, weights, gamma)
    saved = [weight.detach().clone() for weight in weights]
    try:
        _write(weights, [value + step for value, step in zip(saved, steps, strict=True)])
        yield
    finally:
        _write(weights, saved)


def _ascent(loss: Callable[[], Loss], weights: Sequence[Tensor], gamma: float) -> list[Tensor]:
    """Gamma |w| g / |g| for each weight."""
    if not weights:
        return []
    device = weights[0].device
    with randomness_kept(device), torch.enable_grad():
        total = loss().total
        with torch.autocast(device.type, enabled=False):
            found = torch.autograd.grad(total, weights, allow_unused=True)
    gradients = [torch.zeros_like(w) if g is None else g for w, g in zip(weights, found, strict=True)]
    return [relative_ascent(w.detach(), g, gamma) for w, g in zip(weights, averaged(gradients), strict=True)]


@torch.no_grad()
def _write(weights: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    for weight, value in zip(weights, values, strict=True):
        weight.copy_(value)
    torch.clear_autocast_cache()  # it holds the weights in half precision as they were before
