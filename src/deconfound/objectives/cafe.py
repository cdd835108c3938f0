"""CAFE's causal inoculation (Kim, Lee, Ro 2023, arXiv 2303.01052) on any objective that has an adversarial example.

Shapes: B examples, K classes; images (B, C, H, W), labels (B,) int64, logits (B, K).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Literal, NamedTuple, cast, get_args

import torch
from torch import Tensor, nn

from deconfound.core.guards import evaluating
from deconfound.core.protocols import (
    AdversarialObjective,
    Attack,
    CausalFeatures,
    StochasticClassifier,
    ViewedClassifier,
)
from deconfound.core.streams import Streams
from deconfound.core.types import Batch, DeclaredAttack, Loss, Progress, Step
from deconfound.errors import InputError, require
from deconfound.functional.consistency import pooled
from deconfound.functional.losses import kl_divergence
from deconfound.objectives.clean_pass import weight_versions

Reference = Literal["frozen", "live"]


class Found(NamedTuple):
    """The causal inversion of a batch, and what it belongs to."""

    batch: Batch
    adversarial: Tensor
    streams: Streams
    versions: list[tuple[int, int]]
    images: Tensor

    def fits(self, batch: Batch, adversarial: Tensor, streams: Streams, model: nn.Module) -> bool:
        """Whether it is that of these images, streams and weights."""
        if batch.images is not self.batch.images or streams is not self.streams:
            return False
        same = adversarial is self.adversarial or torch.equal(adversarial, self.adversarial)
        return same and weight_versions(model) == self.versions


class Inoculated:
    """L = L_host + weight KL(p(x~) || p(x_causal)), batch mean, in the model's step; the host's other steps stay.

    x~ are the host's own adversarial images. x_causal is their causal inversion: the image near x for which the model
    as it is says what a reference says of f(x) + h(Z), Z = f(x~) - f(x). That target is constant; the gradient of the
    KL reaches the model through both of its predictions.

    The host's logits of x~ are used where it hands them on (``Loss.adversarial``), so a step costs the host's, the
    steps of the inversion, the reference's passes of x and x~, and one pass of x_causal with its gradient.

    Args:
        host: any objective with ``craft`` and ``loss`` whose players hold the model.
        causal: the network on which h was trained, with h, a ``models.CausalFeatureMap``. With ``frozen`` its
            parameters no longer require a gradient, and it shares none with the host's model.
        inversion: finds x_causal, as ``attacks.causal_inversion`` makes it; it reads ``context["target_logits"]``.
        weight: of the KL, at least 0. With 0 this is the host, bit for bit.
        reference: ``frozen``, the network of ``causal`` in eval mode; ``live``, the model that is trained, in train
            mode (the authors).
        detach_target: whether p(x_causal) is constant in the KL (the authors: no).
        climbed: what the inversion climbs; None for the model.

    Raises:
        InputError: a host without an adversarial example, a weight out of range, a reference that the host trains.

    Departures from the authors' code: log-softmax throughout; ``reference="frozen"``.
    """

    def __init__(
        self,
        host: AdversarialObjective,
        causal: CausalFeatures,
        inversion: Attack,
        *,
        weight: float = 1.0,
        reference: Reference = "frozen",
        detach_target: bool = False,
        climbed: nn.Module | None = None,
    ) -> None:
        rule = "an objective with an adversarial example, that is with methods craft and loss"
        require(isinstance(host, AdversarialObjective), "host", type(host).__name__, rule)
        require(0 <= weight < float("inf"), "weight", weight, "a number of at least 0")
        require(reference in get_args(Reference), "reference", reference, f"one of {', '.join(get_args(Reference))}")
        self.host, self.inversion, self.weight, self.reference = host, inversion, weight, reference
        self.detach_target, self.model = detach_target, host.players()["model"]
        self.climbed = self.model if climbed is None else climbed
        self.causal = causal.around(self.model) if reference == "live" else causal
        self._found: Found | None = None
        self._fixed = causal.hypothesis if reference == "live" else cast(nn.Module, causal)
        if weight > 0:
            self._check_apart()
            self._fixed.requires_grad_(False)

    def players(self) -> Mapping[str, nn.Module]:
        """The host's, and ``causal``, which no step moves: the reference with h, or h alone where it is live."""
        return dict(self.host.players()) | ({"causal": self._fixed} if self.weight > 0 else {})

    def craft(self, batch: Batch, progress: Progress, streams: Streams) -> Tensor:
        """The host's adversarial images, (B, C, H, W)."""
        return self.host.craft(batch, progress, streams)

    def loss(self, batch: Batch, adversarial: Tensor, progress: Progress, streams: Streams) -> Loss:
        """The host's loss and the term; the inversion is made for the weights as they are."""
        return self._added(lambda: self.host.loss(batch, adversarial, progress, streams), batch, adversarial, streams)

    def steps(self, batch: Batch, progress: Progress, streams: Streams) -> Iterator[Step]:
        """The host's steps in its order; the model's has the term. Within its scope everything has its weights."""
        for step in self.host.steps(batch, progress, streams):
            if step.player != "model" or self.weight == 0:
                yield step
                continue
            adversarial = step.adversarial
            if adversarial is None:
                adversarial = self.host.craft(batch, progress, streams)
            yield replace(step, loss=self._closure(step.loss, batch, adversarial, streams), adversarial=adversarial)
        self._found = None

    def target(self, images: Tensor, adversarial: Tensor) -> Tensor:
        """What the inversion aims at: logits (B, K) of f(x) + h(Z), constant."""
        with torch.no_grad():
            if self.reference == "live":
                with evaluating(self.causal.hypothesis):
                    natural, moved = (self.causal.features(given) for given in (images, adversarial))
                    return self.causal.causal(natural, moved)
            with evaluating(self._fixed):  # nothing depends on the batch in evaluation, so both pass at once
                natural, moved = self.causal.features(torch.cat([images, adversarial])).chunk(2)
                return self.causal.causal(natural, moved)

    def invert(self, images: Tensor, labels: Tensor, adversarial: Tensor, streams: Streams) -> Tensor:
        """Causal inversion x_causal of a batch, (B, C, H, W), for the weights as they are."""
        context = {"target_logits": self.target(images, adversarial)}
        return self.inversion(self.climbed, images, labels, streams.fold("inversion"), context)

    def declared_attacks(self) -> tuple[DeclaredAttack, ...]:
        """The host's: at test the model stands alone."""
        return tuple(self.host.declared_attacks())

    def _closure(
        self, loss: Callable[[], Loss], batch: Batch, adversarial: Tensor, streams: Streams
    ) -> Callable[[], Loss]:
        return lambda: self._added(loss, batch, adversarial, streams)

    def _added(self, loss: Callable[[], Loss], batch: Batch, adversarial: Tensor, streams: Streams) -> Loss:
        if self.weight == 0:
            return loss()
        inverted = self._inverted(batch, adversarial, streams)
        found = loss()
        perturbed = found.adversarial
        if perturbed is None:
            perturbed = self._predicted(adversarial, streams)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.detach_target):
            causal = self._predicted(inverted, streams)
        term = kl_divergence(perturbed, causal).mean()
        parts = {**found.parts, "causal_kl": term.detach()}
        return Loss(found.total + self.weight * term, parts, found.logits, perturbed)

    def _inverted(self, batch: Batch, adversarial: Tensor, streams: Streams) -> Tensor:
        """x_causal, once for each batch and weights: a loss moves the running statistics that the inversion sees."""
        held = self._found
        if held is None or not held.fits(batch, adversarial, streams, self.model):
            made = self.invert(batch.images, batch.labels, adversarial, streams)
            held = self._found = Found(batch, adversarial, streams, weight_versions(self.model), made)
        return held.images

    def _predicted(self, images: Tensor, streams: Streams) -> Tensor:
        """Logits (B, K). A network that looks at random looks with the numbers that the host's loss looks with."""
        model = self.model
        if isinstance(model, ViewedClassifier):
            _, logits, exposure = model.views(images, streams.fold("views"))
            return pooled(logits, exposure)
        if isinstance(model, StochasticClassifier):
            return model.draw(images, streams.fold("views"), 1)[0]
        found: Tensor = model(images)
        return found

    def _check_apart(self) -> None:
        players = self.host.players()
        require("causal" not in players, "host", type(self.host).__name__, "an objective that is not inoculated yet")
        trained = {id(p) for player in players.values() for p in player.parameters()}
        if any(id(p) in trained for p in self._fixed.parameters()):
            rule = "a copy of the network (copy.deepcopy), because the host trains this one; or reference='live'"
            raise InputError("causal", type(self._fixed).__name__, rule)
