"""The one train-mode pass of the clean images of a batch, used three times: estimators, style update, model update.

Shapes: B examples, D features; images (B, C, H, W), features (B, D).
"""

from __future__ import annotations

from torch import Tensor, nn

from deconfound.functional.style import Basis


class CleanPass:
    """Features of a batch's clean images with their graph, and the style basis that followed from them.

    The graph can be differentiated once, and only by the weights it was made with. A loss that is evaluated again, or
    under perturbed weights, therefore finds nothing here and makes its own.

    Args:
        images: the clean images; the pass is theirs alone.
        basis: fixed for this batch.
        features: (B, D) with their graph; None where none was made.
        model: whose weights the graph belongs to.
    """

    def __init__(self, images: Tensor, basis: Basis, features: Tensor | None, model: nn.Module) -> None:
        self.images, self.basis = images, basis
        self.natural = None if features is None else features.detach()
        self._graph, self._model = features, model
        self._weights = weight_versions(model)

    def take(self) -> Tensor | None:
        """The features with their graph, once and for unchanged weights; None otherwise."""
        if self._graph is None or weight_versions(self._model) != self._weights:
            return None
        features, self._graph = self._graph, None
        return features


def weight_versions(model: nn.Module) -> list[tuple[int, int]]:
    """Tells any weight that was replaced or written to; a flag set and put back, as guards do, changes nothing."""
    return [(id(parameter), parameter._version) for parameter in model.parameters()]
