"""What an attacker climbs in place of CiiV, whose own gradient is masked.

The derivative of a sampled cell, 1e-5 / (r + 1e-5)^2, is below 1e-3 at nearly every pixel and enormous at a handful.
Its mean over the noise is the slope of the firing probability; its spread is hundreds of times as large, so that the
mean over draws (EOT) is no help. Two surrogates have the slope itself:

A, ``SampledSurrogate``: views as sampled, the slope 1[|x| < a] / 2a on the way back (BPDA, Athalye et al. 2018).
B, ``ExpectedSurrogate``: firing and keep probabilities in place of the samples; no noise, exact gradients.

Exact is not enough: a cell with |x| > a always fires, or never does, and has no slope, though a step of eps takes it to
where it has. Black and white pixels are such cells. ``wide`` surrogates have 1 / 2a there too, and find more.

Shapes: V views, B examples, R draws, D features, K classes; images (B, C, H, W) in [0, 1], labels (B,) int64.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, cast

import torch
from torch import Tensor, nn

from deconfound.core.protocols import FeatureSplit
from deconfound.core.streams import Streams
from deconfound.core.types import Context, DeclaredAttack
from deconfound.errors import require
from deconfound.functional import losses
from deconfound.functional.consistency import Against, consistency, pooled
from deconfound.functional.sampling import Slope

if TYPE_CHECKING:
    from deconfound.models.ciiv import CiiV

CONSISTENCY = 0.1
"""Weight of R in the attack that has it: where training begins."""


class SampledSurrogate(nn.Module):
    """Surrogate A: draws of the model, with the expected slope as the gradient of every cell.

    Args:
        model: the defended network; shared, not copied.
        wide: the slope is 1 / 2a everywhere.
    """

    def __init__(self, model: CiiV, *, wide: bool = False) -> None:
        super().__init__()
        self.model, self.wide = model, wide
        self._latest: tuple[Tensor, Tensor] | None = None

    def draw(self, images: Tensor, streams: Streams, draws: int) -> Tensor:
        """R draws of the prediction, (R, B, K), the very ones of the model."""
        found, slope = [], cast(Slope, "wide" if self.wide else "expected")
        for number in range(draws):
            features, logits, exposure = self.model.views(images, streams.fold("draw", number), slope)
            self._latest = features, exposure
            found.append(pooled(logits, exposure))
        return torch.stack(found)

    def forward(self, images: Tensor, streams: Streams | None = None) -> Tensor:
        """One draw, (B, K); without streams those of ``Streams(0, range(B))``."""
        if streams is None:
            streams = Streams(0, torch.arange(len(images), device=images.device))
        return self.draw(images, streams, 1)[0]

    def consistency(self) -> Tensor:
        """R of the last draw, mean over its views, (B,)."""
        return _consistency(self)


class ExpectedSurrogate(nn.Module):
    """Surrogate B: the network on the expected views; an ordinary classifier in two parts.

    Args:
        model: the defended network; shared, not copied.
        wide: the slope is 1 / 2a everywhere; else gradients are exact.
    """

    def __init__(self, model: CiiV, *, wide: bool = False) -> None:
        super().__init__()
        self.model, self.wide = model, wide
        self._latest: tuple[Tensor, Tensor] | None = None

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, K) of the expected views, pooled like the model's."""
        features, logits, exposure = self.model.expected_views(images, wide=self.wide)
        self._latest = features, exposure
        return pooled(logits, exposure)

    def features(self, images: Tensor) -> Tensor:
        """The features of all views, (B, V, D)."""
        features, _, _ = self.model.expected_views(images, wide=self.wide)
        return features.transpose(0, 1)

    def head(self, features: Tensor) -> Tensor:
        """Features (B, V, D) -> logits (B, K); the exposure they are divided by is the same for all images."""
        inner = cast(FeatureSplit, self.model.inner)
        count, views = features.shape[:2]
        blank = features.new_zeros(1, self.model.normalise.channels, *self.model.size)
        exposure = self.model.sampler.expected(self.model.sampled_input(blank))[1]
        logits = inner.head(features.flatten(0, 1)).view(count, views, -1)
        return pooled(logits.transpose(0, 1), exposure.T)

    def consistency(self) -> Tensor:
        """R of the last forward, mean over its views, (B,)."""
        return _consistency(self)


def _consistency(surrogate: SampledSurrogate | ExpectedSurrogate) -> Tensor:
    latest, surrogate._latest = surrogate._latest, None
    assert latest is not None, "a forward comes first"
    against: Against = "others" if surrogate.model.sampling.version == "v2" else "all"
    return consistency(*latest, against=against).mean(dim=0)


@dataclass(frozen=True)
class ViewedLoss:
    """Attack loss L(z) + weight R, per example (B,), on a surrogate with ``consistency``.

    Args:
        content: L, ``cross_entropy`` or ``margin``.
        weight: of R, the regulariser of the surrogate's views; 0 for any classifier.
    """

    content: Literal["cross_entropy", "margin"] = "cross_entropy"
    weight: float = 0.0

    @property
    def __name__(self) -> str:
        """As records call it."""
        return self.content + (f"+{self.weight:g}*consistency" if self.weight else "")

    def __call__(
        self, model: SampledSurrogate | ExpectedSurrogate, images: Tensor, labels: Tensor, context: Context
    ) -> Tensor:
        """One number per example; one forward."""
        require(self.content in ("cross_entropy", "margin"), "content", self.content, "cross_entropy or margin")
        logits = model(images)
        value = getattr(losses, self.content)(logits, labels)
        return value + self.weight * model.consistency() if self.weight else value


_LOSSES = {"ce": ViewedLoss(), "margin": ViewedLoss("margin")}


def declared(model: CiiV, featured: CiiV | None = None) -> tuple[DeclaredAttack, ...]:
    """The adaptive attacks on a network: B, which is cheap, first, then A with EOT over the draws.

    Both climb CE and the margin, with exact and with wide slopes; B also CE + 0.1 R, where there are views to compare.
    Steps and draws are the budget's. Square and SPSA on averaged losses are part of every suite for random models.
    ``featured`` is climbed where R is needed, in place of a model that has logits alone.
    """
    made: list[tuple[str, nn.Module, ViewedLoss]] = []
    for letter, kind in (("b", ExpectedSurrogate), ("a", SampledSurrogate)):
        for suffix, wide in (("", False), ("-wide", True)):
            surrogate = kind(model, wide=wide)
            made += [(f"{letter}{suffix}-{name}", surrogate, loss) for name, loss in _LOSSES.items()]
    if model.sampling.loops > 1:
        made.insert(
            2 * len(_LOSSES), ("b-consistency", ExpectedSurrogate(featured or model), ViewedLoss(weight=CONSISTENCY))
        )
    return tuple(DeclaredAttack(name=f"ciiv-{name}", surrogate=over, loss=loss) for name, over, loss in made)
