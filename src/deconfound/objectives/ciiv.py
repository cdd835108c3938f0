"""CiiV (Tang et al. 2021, arXiv 2106.09534): cross entropy of every view, and equal features per exposure.

Shapes: V views, B examples, D features, K classes; images (B, C, H, W), features (V, B, D), logits (V, B, K), exposure
(V, B), labels (B,) int64.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import cast

from torch import Tensor, nn

from deconfound.core.protocols import Attack, ViewedClassifier
from deconfound.core.streams import Streams
from deconfound.core.types import Batch, DeclaredAttack, Loss, Progress, Step
from deconfound.errors import require
from deconfound.functional.consistency import AGAINST, DISTANCES, Against, Distance, consistency, pooled
from deconfound.functional.losses import cross_entropy
from deconfound.functional.mixing import mix, mixed_accuracy
from deconfound.objectives.compose import composed_steps, warmed

STAIRS = (25 / 110, 50 / 110, 75 / 110)
"""After epochs 25, 50 and 75 of the authors' 110."""


@dataclass(frozen=True, kw_only=True)
class ViewLoss:
    """ce_weight mean_l CE(o_l, y) + weight_t mean_l R_l, batch means; R as in ``functional.consistency``.

    weight_t = weight growth^(stairs passed), at the beginning of an epoch.

    Attributes:
        ce_weight: of the cross entropy, at least 0.
        weight: of R when training begins, at least 0; with 0 a single view is enough.
        growth: factor at each stair, at least 0.
        stairs: shares of training, ascending, in [0, 1].
        distance: ``smooth_l1`` or ``l2``.
        against: ``others`` compares a view with the mean of the others (v2), ``all`` with that of all (v1).
        mixup: alpha of mixup on the images before they are sampled, whose views then answer for both labels; 0 for
            none. Logits of mixed images are not handed on, since they are of no one label and not of the images
            given; the part ``accuracy`` is the weight that the predicted class has in the mixture.

    Raises:
        InputError: a setting out of range.
    """

    ce_weight: float = 1.0
    weight: float = 0.1
    growth: float = 10.0
    stairs: tuple[float, ...] = STAIRS
    distance: Distance = "smooth_l1"
    against: Against = "others"
    mixup: float = 0.0

    def __post_init__(self) -> None:
        for field in ("ce_weight", "weight", "growth", "mixup"):
            require(0 <= getattr(self, field) < float("inf"), field, getattr(self, field), "a number of at least 0")
        ordered = list(self.stairs) == sorted(self.stairs) and all(0 <= stair <= 1 for stair in self.stairs)
        require(ordered, "stairs", self.stairs, "shares of training in [0, 1], in ascending order")
        require(self.distance in DISTANCES, "distance", self.distance, f"one of {', '.join(DISTANCES)}")
        require(self.against in AGAINST, "against", self.against, f"one of {', '.join(AGAINST)}")

    def weight_at(self, progress: Progress) -> float:
        """weight_t.

        >>> [round(ViewLoss().weight_at(Progress(epoch=e, epochs=110)), 6) for e in (24, 25, 50, 75)]
        [0.1, 1.0, 10.0, 100.0]
        """
        begun = progress.epoch / progress.epochs
        return self.weight * self.growth ** sum(begun >= stair - 1e-9 for stair in self.stairs)

    def __call__(
        self, model: ViewedClassifier, images: Tensor, labels: Tensor, progress: Progress, streams: Streams
    ) -> Loss:
        """The loss of one draw of all views; the same streams draw the same views.

        Raises:
            InputError: a single view and a weight above 0.
        """
        partner = weight = None
        if self.mixup > 0:
            images, partner, weight = mix(images, streams.fold("mixup"), self.mixup)
        features, logits, exposure = model.views(images, streams.fold("views"))
        natural = _every_view(logits, labels)
        if partner is not None and weight is not None:
            natural = weight * natural + (1 - weight) * _every_view(logits, labels[partner])
        total = self.ce_weight * natural.mean()
        parts = {"cross_entropy": natural.mean().detach()}
        factor = self.weight_at(progress)
        if factor > 0:
            apart = consistency(features, exposure, self.distance, self.against).mean()
            total = total + factor * apart
            parts |= {"consistency": apart.detach(), "consistency_weight": apart.new_tensor(factor)}
        predicted = pooled(logits, exposure)
        if partner is not None and weight is not None:
            accuracy = mixed_accuracy(predicted, labels, labels[partner], weight)
            return Loss(total, parts | {"accuracy": accuracy})
        return Loss(total, parts, predicted.detach(), predicted)


def _every_view(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean over views of CE(o_l, y), (B,)."""
    views = len(logits)
    return cross_entropy(logits.flatten(0, 1), labels.repeat(views)).view(views, -1).mean(dim=0)


def viewed(model: nn.Module) -> nn.Module:
    """The model, if it looks several times.

    Raises:
        InputError: no method ``views``.
    """
    rule = "a network that looks several times (in a recipe: the key sampler; in Python: models.CiiV)"
    require(isinstance(model, ViewedClassifier), "model", type(model).__name__, rule)
    return model


class CiiVTraining:
    """Minimises ``ViewLoss`` on clean images.

    Args:
        model: a ``ViewedClassifier``.
        loss: its weights.

    Raises:
        InputError: a model without views.
    """

    def __init__(self, model: nn.Module, loss: ViewLoss | None = None) -> None:
        self.model, self.view_loss = viewed(model), loss or ViewLoss()

    def players(self) -> Mapping[str, nn.Module]:
        """The model alone."""
        return {"model": self.model}

    def steps(self, batch: Batch, progress: Progress, streams: Streams) -> Iterator[Step]:
        """One step of the model."""
        model = cast(ViewedClassifier, self.model)
        yield Step("model", lambda: self.view_loss(model, batch.images, batch.labels, progress, streams))

    def declared_attacks(self) -> tuple[DeclaredAttack, ...]:
        """None: the network declares its own, which need no player but it."""
        return ()


class CiiVAdversarialTraining:
    """Minimises ``ViewLoss`` on the inner attack's images.

    Args:
        model: a ``ViewedClassifier``.
        attack: inner maximiser with ``keep="last"``; PGD and FGSM in any norm.
        climbed: what the attack climbs, a double of the model whose gradient is not masked (surrogate A, one draw a
            step); None for the model itself and its raw gradient, as the authors have it.
        loss: weights of the outer loss.
        warmup: share of training over which the attack's radius grows from 0 to its own.

    Raises:
        InputError: a model without views, a warmup out of range.
    """

    def __init__(
        self,
        model: nn.Module,
        attack: Attack,
        climbed: nn.Module | None = None,
        loss: ViewLoss | None = None,
        warmup: float = 0.0,
    ) -> None:
        require(0 <= warmup <= 1, "warmup", warmup, "a share of training in [0, 1]")
        self.model, self.view_loss = viewed(model), loss or ViewLoss()
        self.attack, self.climbed, self.warmup = attack, model if climbed is None else climbed, warmup

    def players(self) -> Mapping[str, nn.Module]:
        """The model alone."""
        return {"model": self.model}

    def craft(self, batch: Batch, progress: Progress, streams: Streams) -> Tensor:
        """The inner attack's images, (B, C, H, W)."""
        attack = warmed(self.attack, progress, self.warmup)
        return attack(self.climbed, batch.images, batch.labels, streams.fold("craft"))

    def loss(self, batch: Batch, adversarial: Tensor, progress: Progress, streams: Streams) -> Loss:
        """``ViewLoss`` of the adversarial images."""
        return self.view_loss(cast(ViewedClassifier, self.model), adversarial, batch.labels, progress, streams)

    def steps(self, batch: Batch, progress: Progress, streams: Streams) -> Iterator[Step]:
        """One step of the model."""
        return composed_steps(self, batch, progress, streams)

    def declared_attacks(self) -> tuple[DeclaredAttack, ...]:
        """None: the network declares its own, which need no player but it."""
        return ()
