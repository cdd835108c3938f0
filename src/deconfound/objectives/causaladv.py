"""CausalAdv (Zhang et al. 2022, arXiv 2106.06196): adversarial training that also aligns P(Y | X, style).

Shapes: B examples, K classes, D features; images (B, C, H, W), features f (B, D), logits (B, K), labels (B,) int64.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from typing import Literal, cast

import torch
from torch import Tensor, nn

from deconfound.core.guards import evaluating, frozen, statistics_kept
from deconfound.core.protocols import Attack, FeatureSplit, StylePredictor
from deconfound.core.streams import Streams
from deconfound.core.types import Batch, Context, DeclaredAttack, Loss, Progress, Step
from deconfound.errors import InputError, require
from deconfound.functional.losses import cross_entropy, kl_divergence, soft_cross_entropy
from deconfound.functional.style import Basis
from deconfound.objectives.clean_pass import CleanPass
from deconfound.objectives.compose import composed_steps, warmed
from deconfound.objectives.styled import (
    Styled,
    StyleLoss,
    checked_features,
    linear_layer,
    style_context,
)

Variant = Literal["m", "t"]
BETA: Mapping[Variant, float] = {"m": 1.0, "t": 6.0}
"""The paper's weight of the content term."""

ADAPTIVE = (0.0, 0.2, 0.5, 0.8)
"""The style's weights in the adaptive attacks that the defence declares against itself."""


class CausalAdv:
    """Two updates per batch: the style predictor g, then the classifier h, with beta L_c + alpha_t L_s.

    Per batch, in this order: (0) f of the clean images in train mode; the covariance S of n(f) takes it in; the basis
    B with W S B^T = 0 follows from the detached W and stays. Then the attack, which ascends
    beta L_adv + alpha softCE(z^s(x~) against z^s(x)) on h and g in evaluation. (a) g descends CE(z^s(x), y) on the
    detached style of (0); its covariances take the batch in. (b) h descends, g fixed in evaluation,

    - ``m``: beta CE(z(x~), y) + alpha_t softCE(z^s(x~) against z^s(x)) (+ clean_weight CE(z(x), y)),
    - ``t``: CE(z(x), y) + beta KL(p(x) || p(x~)) + alpha_t softCE(z^s(x~) against z^s(x)).

    No target is detached. alpha_t = alpha epoch / epochs and ratio_t likewise, epochs counted from 0; the attack, whose
    loss belongs to the outer one's end, has the full alpha and ratio. With alpha = 0 there is no style branch, and the
    objective is PGD-AT (``m``) or TRADES (``t``).

    The clean images pass the network once in train mode (its graph is kept for (b)) and once in eval mode. Where that
    graph cannot be used, as under perturbed weights, (b) makes its own; the running statistics took the batch in (0).

    Args:
        model: a classifier in two parts, ``head(features(x))`` with one linear layer as its head.
        style: the style branch, a module with the methods of ``StylePredictor``; None where alpha is 0.
        attack: inner maximiser with ``keep="last"``, whose loss is a ``StyleLoss`` (with alpha = 0, cross entropy or
            the KL to ``context["reference_logits"]``).
        variant: ``m`` or ``t``.
        alpha: weight of the style term, at least 0.
        beta: weight of the adversarial content term, at least 0; by default 1 for ``m`` and 6 for ``t``.
        ratio: strength of the marginalisation over style, at least 0.
        clean_weight: weight of an additional CE(z(x), y), at least 0. The paper's objective for ``m`` has it, the
            authors' code does not.
        warmup: share of training over which the attack's radius grows from 0 to its own.
        last: the linear layer of the head, where it is not ``model.last``.

    A wrapper takes its steps from ``steps``: ``craft`` and ``loss`` alone neither observe a batch nor train g.

    Raises:
        InputError: a setting out of range, a model without a linear head.

    Departures from the authors' code: the exact basis (see ``functional.style``); the marginalisation as a table by
    label; g's second forward per batch, for its covariances, is saved; ``clean_weight``.
    """

    def __init__(
        self,
        model: nn.Module,
        style: nn.Module | None,
        attack: Attack,
        variant: Variant = "m",
        *,
        alpha: float = 1.0,
        beta: float | None = None,
        ratio: float = 1.0,
        clean_weight: float = 0.0,
        warmup: float = 0.0,
        last: nn.Linear | None = None,
    ) -> None:
        require(variant in BETA, "variant", variant, "m or t")
        beta = BETA[variant] if beta is None else beta
        for field, value in (("alpha", alpha), ("beta", beta), ("ratio", ratio), ("clean_weight", clean_weight)):
            require(0 <= value < float("inf"), field, value, "a number of at least 0")
        require(0 <= warmup <= 1, "warmup", warmup, "a share of training in [0, 1]")
        if alpha > 0 and style is None:
            raise InputError("style", None, f"a style branch, because alpha = {alpha:g}")
        self.model, self.attack, self.variant, self.warmup = model, attack, variant, warmup
        self.alpha, self.beta, self.ratio, self.clean_weight = alpha, beta, ratio, clean_weight
        self._branch = style if alpha > 0 else None
        self._last = linear_layer(model, last) if alpha > 0 else None
        self._split = cast(FeatureSplit, model)
        self._style = cast(StylePredictor, style)
        self._held: CleanPass | None = None

    def players(self) -> Mapping[str, nn.Module]:
        """The model, and the style branch unless alpha is 0."""
        return {"model": self.model} | ({} if self._branch is None else {"style": self._branch})

    def craft(self, batch: Batch, progress: Progress, streams: Streams) -> Tensor:
        """The inner attack's images, (B, C, H, W), against the networks and estimators as they are."""
        attack, surrogate = warmed(self.attack, progress, self.warmup), self.model
        context: Context | None = None
        if self._branch is not None:
            surrogate = Styled(self.model, self._branch, self._pass_of(batch).basis.matrix)
            context = style_context(surrogate, batch.images, batch.labels, self.ratio)
        elif self.variant == "t":
            with evaluating(self.model), torch.no_grad():
                context = {"reference_logits": self.model(batch.images)}
        return attack(surrogate, batch.images, batch.labels, streams.fold("craft"), context)

    def loss(self, batch: Batch, adversarial: Tensor, progress: Progress, streams: Streams) -> Loss:
        """Batch mean of what the model descends, (b) above; in ``steps`` with this batch's basis and clean pass."""
        if self._branch is None:
            clean = self.model(batch.images) if self._needs_clean else None
            return self._content(clean, self.model(adversarial), batch.labels)
        held = self._pass_of(batch)
        natural = self._natural(held)
        perturbed = self._features(adversarial)
        clean = self._split.head(natural) if self._needs_clean else None
        content = self._content(clean, self._split.head(perturbed), batch.labels)
        shift = self._shift(natural, perturbed, held.basis.matrix, batch.labels, self.ratio * ramp(progress))
        total = content.total + self.alpha * ramp(progress) * shift
        return content._replace(total=total, parts={**content.parts, "style_shift": shift.detach()})

    def steps(self, batch: Batch, progress: Progress, streams: Streams) -> Iterator[Step]:
        """A step of the style branch, then one of the model; of the model alone where alpha is 0."""
        if self._branch is None:
            yield from composed_steps(self, batch, progress, streams)
            return
        held = self._held = self._observe(batch)
        try:
            adversarial = self.craft(batch, progress, streams)
            yield Step("style", StyleUpdate(self._style, held, batch.labels, self.ratio * ramp(progress)))
            yield Step("model", lambda: self.loss(batch, adversarial, progress, streams), adversarial=adversarial)
        finally:
            if self._held is held:
                self._held = None

    def declared_attacks(self) -> tuple[DeclaredAttack, ...]:
        """(1 - w) CE(z) + w softCE(style) for w in 0, 0.2, 0.5, 0.8 against the branch as it is; none without one.

        A suite's union over them is the worst case of each example. Both terms are per example, and g is in
        evaluation; the authors' adaptive attack adds a batch sum of the one to a batch mean of the other.
        """
        if self._branch is None:
            return ()
        styled = Styled(self.model, self._branch, self._basis().matrix)

        def context(model: nn.Module, images: Tensor, labels: Tensor) -> Context:
            return style_context(styled, images, labels, self.ratio)

        return tuple(
            DeclaredAttack(
                name=f"style-{weight:g}",
                loss=StyleLoss("cross_entropy", 1 - weight, weight),
                surrogate=styled,
                context=context,
            )
            for weight in ADAPTIVE
        )

    @property
    def _needs_clean(self) -> bool:
        return self.variant == "t" or self.clean_weight > 0

    def _content(self, clean: Tensor | None, perturbed: Tensor, labels: Tensor) -> Loss:
        """Everything but the style term; ``clean`` (B, K) only where it is needed."""
        parts: dict[str, Tensor] = {}
        if self.variant == "t":
            assert clean is not None
            parts = {"cross_entropy": cross_entropy(clean, labels).mean(), "kl": kl_divergence(clean, perturbed).mean()}
            total = parts["cross_entropy"] + self.beta * parts["kl"]
        else:
            parts = {"adversarial_cross_entropy": cross_entropy(perturbed, labels).mean()}
            total = self.beta * parts["adversarial_cross_entropy"]
        if self.clean_weight > 0:
            assert clean is not None
            parts["cross_entropy"] = cross_entropy(clean, labels).mean()
            total = total + self.clean_weight * parts["cross_entropy"]
        found = {name: part.detach() for name, part in parts.items()}
        return Loss(total, found, perturbed.detach(), perturbed)

    def _shift(self, natural: Tensor, perturbed: Tensor, matrix: Tensor, labels: Tensor, ratio: float) -> Tensor:
        """The style term, a scalar: the branch in evaluation and fixed, gradient to both features."""
        branch = self._style
        with frozen(branch):
            correction = branch.correction(labels, ratio)
            target, moved = (branch.plain_logits(branch.style(f, matrix)) + correction for f in (natural, perturbed))
            return soft_cross_entropy(moved, target).mean()

    def _natural(self, held: CleanPass) -> Tensor:
        """Clean features with their graph; made again, they do not move the running statistics again."""
        taken = held.take()
        if taken is not None:
            return taken
        with ExitStack() as stack:
            if held.natural is not None:
                stack.enter_context(statistics_kept(self.model))
            return self._features(held.images)

    def _features(self, images: Tensor) -> Tensor:
        assert self._last is not None
        return checked_features(self._split.features(images), self._last)

    def _basis(self) -> Basis:
        assert self._last is not None
        return self._style.basis(self._last.weight)

    def _observe(self, batch: Batch) -> CleanPass:
        """(0): one pass with its graph; the covariance takes it in, and the basis follows."""
        features = self._features(batch.images)
        self._style.observe(features.detach())
        return CleanPass(batch.images, self._basis(), features, self.model)

    def _pass_of(self, batch: Batch) -> CleanPass:
        """That of the steps under way if it is this batch's; else the basis of the state as it is, and no features."""
        if self._held is not None and self._held.images is batch.images:
            return self._held
        return CleanPass(batch.images, self._basis(), None, self.model)


class StyleUpdate:
    """The loss of (a): CE(z^s(x), y) on the detached style of the clean images; evaluated again, it moves nothing."""

    def __init__(self, style: StylePredictor, held: CleanPass, labels: Tensor, ratio: float) -> None:
        assert held.natural is not None
        self._style, self._labels, self._ratio = style, labels, ratio
        self._input = style.style(held.natural, held.basis.matrix)
        self._leakage = self._input.new_tensor(held.basis.leakage)
        self._seen = False

    def __call__(self) -> Loss:
        """The batch mean; statistics move in the first evaluation."""
        logits = self._style.learn(self._input, self._labels, self._ratio, update=not self._seen)
        self._seen = True
        total = cross_entropy(logits, self._labels).mean()
        return Loss(total, {"cross_entropy": total.detach(), "leakage": self._leakage}, logits.detach())


def ramp(progress: Progress) -> float:
    """The finished share of the epochs, epoch / epochs in [0, 1).

    >>> ramp(Progress(epoch=30, epochs=120))
    0.25
    """
    return progress.epoch / progress.epochs
