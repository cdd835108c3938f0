"""CiiV with a fast double of its network behind the same sampler: what attacks climb, while the model stays the judge.

Shapes: B examples, N = V B rows of V views, K classes; images (B, C, H, W) in [0, 1], labels (B,) int64.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from deconfound.core.guards import evaluating
from deconfound.core.streams import Streams
from deconfound.core.types import DeclaredAttack
from deconfound.models.ciiv import CiiV
from deconfound.models.ciiv_surrogates import declared
from deconfound.models.fast import ITSELF, FastSurrogate, Precision, fast_surrogate

_OTHER = "the network's forward is not its head on its features"


class HastenedCiiV(CiiV):
    """The sampler of a model, draw for draw, before a double of its network that has logits and no features.

    Args:
        exact: the model; its sampler and normalisation are shared.
        fast: rows (N, C', H, W) -> logits (N, K).
    """

    def __init__(self, exact: CiiV, fast: nn.Module) -> None:
        super().__init__(_LogitsAlone(fast), exact.sampling, channels=exact.normalise.channels, size=exact.size)
        self.normalise, self._fast = exact.normalise, fast
        self._exact = (exact,)  # no part of this network: its weights are not this one's
        self.eval()

    def with_loops(self, loops: int) -> CiiV:
        """The same double, which looks ``loops`` times."""
        return HastenedCiiV(self._exact[0].with_loops(loops), self._fast)

    def attack_surrogates(self) -> tuple[DeclaredAttack, ...]:
        """The same attacks as on the model, climbing this double; what needs features climbs the model."""
        return declared(self, featured=self._exact[0])


class _LogitsAlone(nn.Module):
    """A classifier as a network in two parts, the first of which does everything."""

    def __init__(self, classifier: nn.Module) -> None:
        super().__init__()
        self.classifier = classifier

    def forward(self, rows: Tensor) -> Tensor:
        logits: Tensor = self.classifier(rows)
        return logits

    def features(self, rows: Tensor) -> Tensor:
        return self.forward(rows)

    def head(self, features: Tensor) -> Tensor:
        return features


def hastened(
    model: CiiV, images: Tensor, labels: Tensor, *, precision: Precision = "auto", compiler: str | None = None
) -> FastSurrogate:
    """The fastest double of CiiV whose network agrees with the model's on views of the first images.

    Draws of the double have the same views; their logits differ as far as ``models.fast`` allows.

    Args:
        model: is left as it is.
        images, labels: (B, C, H, W) and (B,), the first batch that will be attacked.
        precision, compiler: as for ``fast_surrogate``.

    Raises:
        InputError: an unknown precision.
    """
    with evaluating(model), torch.no_grad():
        streams = Streams(0, torch.arange(len(images), device=images.device))
        views, _ = model.sampler(model.sampled_input(images), streams)
        rows, truth = views.flatten(0, 1), labels.repeat_interleave(views.shape[1])
        spread = torch.arange(len(rows), device=rows.device).view(views.shape[:2]).T.flatten()  # a view of each first
        rows, truth = rows[spread], truth[spread]
        whole, split = model.inner(rows[:2]), model._split(rows[:2])[1]
    if not isinstance(whole, Tensor) or whole.shape != split.shape or not torch.allclose(whole, split, atol=1e-5):
        return FastSurrogate(model, ITSELF, (_OTHER,))
    made = fast_surrogate(model.inner, rows, truth, precision=precision, compiler=compiler)
    if made.classifier is model.inner:
        return replace(made, classifier=model, rung=ITSELF)
    return replace(made, classifier=HastenedCiiV(model, made.classifier), rung=f"its network in {made.rung}")
