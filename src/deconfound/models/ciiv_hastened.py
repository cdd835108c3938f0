"""CiiV with a fast double of its network behind the same sampler: what attacks climb, while the model stays the judge.

Shapes: B examples, N = V B rows of V views, K classes; images (B, C, H, W) in [0, 1], labels (B,) int64.
"""

from __future__ import annotations

from dataclasses import replace
from typing import cast

import torch
from torch import Tensor, nn

from deconfound.core.guards import evaluating
from deconfound.core.streams import Streams
from deconfound.core.types import DeclaredAttack
from deconfound.errors import reason
from deconfound.models.ciiv import CiiV
from deconfound.models.ciiv_surrogates import declared
from deconfound.models.fast import ITSELF, FastSurrogate, Precision, fast_surrogate
from deconfound.models.sampler_compiled import CompiledSampler

_VIEWS_APART = 1e-5
"""Mean over pixels: another order of rounding comes to 1e-7, other random numbers to 0.1."""
_OTHER = "the network's forward is not its head on its features"


class HastenedCiiV(CiiV):
    """The sampler of a model, draw for draw, before a double of its network that has logits and no features.

    Args:
        exact: the model; its sampler and normalisation are shared.
        fast: rows (N, C', H, W) -> logits (N, K).
        compiler: a backend of ``torch.compile`` for the sampler; None for the model's own.
    """

    def __init__(self, exact: CiiV, fast: nn.Module, compiler: str | None = None) -> None:
        super().__init__(_LogitsAlone(fast), exact.sampling, channels=exact.normalise.channels, size=exact.size)
        self.normalise, self._fast, self._compiler = exact.normalise, fast, compiler
        if compiler is not None:
            self.sampler = CompiledSampler(exact.sampling, exact.size, compiler)
        self._exact = (exact,)  # no part of this network: its weights are not this one's
        self.eval()

    def with_loops(self, loops: int) -> CiiV:
        """The same double, which looks ``loops`` times."""
        return HastenedCiiV(self._exact[0].with_loops(loops), self._fast, self._compiler)

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

    Draws of the double have the same views; their logits differ as far as ``models.fast`` allows. A compiled sampler
    rounds in another order, which shows at few pixels and there by less than 0.001.

    Args:
        model: is left as it is.
        images, labels: (B, C, H, W) and (B,), the first batch that will be attacked.
        precision: as for ``fast_surrogate``.
        compiler: a backend of ``torch.compile`` for the sampler, which is most of a draw, on an accelerator also for
            the network; kept if it agrees.

    Raises:
        InputError: an unknown precision.
    """
    with evaluating(model), torch.no_grad():
        streams = Streams(0, torch.arange(len(images), device=images.device))
        views, _ = model.sampler(model.sampled_input(images), streams)
        rows, truth = views.transpose(0, 1).flatten(0, 1), labels.repeat(views.shape[1])  # a view of each image first
        whole, split = model.inner(rows[:2]), model._split(rows[:2])[1]
    if not isinstance(whole, Tensor) or whole.shape != split.shape or not torch.allclose(whole, split, atol=1e-5):
        return FastSurrogate(model, ITSELF, (_OTHER,))
    inner_compiler = None if images.device.type == "cpu" else compiler  # measured: nothing is gained there
    made = fast_surrogate(model.inner, rows, truth, precision=precision, compiler=inner_compiler)
    if made.classifier is model.inner:
        return replace(made, classifier=model)
    found = replace(made, classifier=HastenedCiiV(model, made.classifier), rung=f"its network in {made.rung}")
    return found if compiler is None else _compiled(found, model, images, views, compiler)


def _compiled(found: FastSurrogate, model: CiiV, images: Tensor, views: Tensor, compiler: str) -> FastSurrogate:
    """The same double with its sampler as one program, or as it is with the reason why not."""
    try:
        double = HastenedCiiV(model, cast(HastenedCiiV, found.classifier)._fast, compiler)
        with torch.no_grad():
            streams = Streams(0, torch.arange(len(images), device=images.device))
            drawn, _ = double.sampler(double.sampled_input(images), streams)
    except Exception as error:  # compilers need tools that a machine may lack
        return replace(found, notes=(*found.notes, f"sampler not compiled: {reason(error)}"))
    apart = float((drawn - views).abs().mean())
    if apart <= _VIEWS_APART:  # written so that NaN agrees with nothing
        return replace(found, classifier=double, rung=f"{found.rung}, sampler compiled")
    return replace(found, notes=(*found.notes, f"sampler not compiled: views differ by {apart:.2g}"))
