"""Helper-based adversarial training (HAT, Rade & Moosavi-Dezfooli 2022, ICLR)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn

from deconfound.core.guards import evaluating
from deconfound.core.protocols import AdversarialObjective
from deconfound.core.streams import Streams
from deconfound.core.types import Batch, DeclaredAttack, Loss, Progress, Step
from deconfound.errors import InputError, require
from deconfound.functional.losses import cross_entropy

STANDARD = "standard"


class Help:
    """A host's loss + gamma CE(z(x + r (x~ - x)), argmax z_s(x~)), batch means; z_s a standard network, fixed.

    Beyond the adversarial image lies a helper, which gets the class that a network trained without defence sees in x~:
    the margin no longer grows where it costs accuracy (eq. 6). The paper's host is TRADES.

    Args:
        objective: the host, whose adversarial images and loss are used.
        standard: z_s, images -> logits (B, K). A player that is never trained: its parameters are frozen for good, and
            it predicts in eval mode.
        gamma: weight of the helper term, at least 0; 0.5 in the paper with TRADES at beta 2.5.
        reach: r, above 1; 2 in the paper.

    The host's steps of other players, such as the style branch of CausalAdv, are its own. The helper may leave [0, 1],
    as the authors' does.

    Raises:
        InputError: a host without an adversarial example or with a player named like ours, a setting out of range.
    """

    def __init__(
        self, objective: AdversarialObjective, standard: nn.Module, gamma: float = 0.5, reach: float = 2.0
    ) -> None:
        if not isinstance(objective, AdversarialObjective):
            raise InputError("host", type(objective).__name__, "an objective with an adversarial example")
        require(0 <= gamma < float("inf"), "gamma", gamma, "a number of at least 0")
        require(1 < reach < float("inf"), "reach", reach, "a number above 1")
        taken = STANDARD in objective.players()
        require(not taken, "host", type(objective).__name__, f"one without a player named {STANDARD} of its own")
        self.objective, self.gamma, self.reach = objective, gamma, reach
        self.model = objective.players()["model"]
        self.standard = standard.requires_grad_(False)

    def players(self) -> Mapping[str, nn.Module]:
        """The host's, and the standard network, which has no parameter to train."""
        return {**self.objective.players(), STANDARD: self.standard}

    def craft(self, batch: Batch, progress: Progress, streams: Streams) -> Tensor:
        """The host's adversarial images, (B, C, H, W)."""
        return self.objective.craft(batch, progress, streams)

    def loss(self, batch: Batch, adversarial: Tensor, progress: Progress, streams: Streams) -> Loss:
        """The host's loss + gamma CE of the helpers."""
        return self._helped(self.objective.loss(batch, adversarial, progress, streams), batch, adversarial)

    def _helped(self, host: Loss, batch: Batch, adversarial: Tensor) -> Loss:
        if self.gamma == 0:  # the host, to the last bit of its statistics too
            return host
        with evaluating(self.standard), torch.no_grad():
            seen = self.standard(adversarial).argmax(dim=1)
        helpers = batch.images + self.reach * (adversarial - batch.images)
        term = cross_entropy(self.model(helpers), seen).mean()
        return host._replace(total=host.total + self.gamma * term, parts={**host.parts, "helper": term.detach()})

    def steps(self, batch: Batch, progress: Progress, streams: Streams) -> Iterator[Step]:
        """The host's steps, that of the model with the helper term."""
        for step in self.objective.steps(batch, progress, streams):
            if step.player != "model":
                yield step
                continue
            made = step.adversarial
            if made is None:  # a host of someone's own that does not hand its images on
                made = self.objective.craft(batch, progress, streams)
            yield replace(step, loss=partial(self._step_loss, step.loss, batch, made), adversarial=made)

    def _step_loss(self, host: Callable[[], Loss], batch: Batch, adversarial: Tensor) -> Loss:
        return self._helped(host(), batch, adversarial)

    def declared_attacks(self) -> Sequence[DeclaredAttack]:
        """The host's."""
        return self.objective.declared_attacks()
