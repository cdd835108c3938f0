"""Any classifier as two parts: ``head(features(x)) == model(x)``.

Shapes: B examples, C channels, H height, W width, D features, K classes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from deconfound.core.guards import evaluating, moded
from deconfound.errors import InputError
from deconfound.models.cut import At, Cut, cut, enclosing, unknown_layer

TIMM_CUT = "forward_features"
"""As a layer name: timm's own cut, between ``forward_features`` and ``forward_head``."""


class _Way(Protocol):
    """How a model is split."""

    def features(self, split: Split, images: Tensor) -> Tensor: ...

    def head(self, split: Split, features: Tensor) -> Tensor: ...

    def last(self, split: Split) -> nn.Module | None: ...


def _inner(split: Split) -> Any:
    """The wrapped model, whose methods were looked up before."""
    return split.model


class _OwnMethods:
    """The model has ``features`` and ``head`` itself."""

    def features(self, split: Split, images: Tensor) -> Tensor:
        return _inner(split).features(split.normalise(images))

    def head(self, split: Split, features: Tensor) -> Tensor:
        return _inner(split).head(features)

    def last(self, split: Split) -> nn.Module | None:
        return getattr(_inner(split), "last", None)


class _TimmPooled:
    """timm: the pooled vector before the classifier."""

    def features(self, split: Split, images: Tensor) -> Tensor:
        maps = _inner(split).forward_features(split.normalise(images))
        return _inner(split).forward_head(maps, pre_logits=True)

    def head(self, split: Split, features: Tensor) -> Tensor:
        return _inner(split).get_classifier()(features)

    def last(self, split: Split) -> nn.Module | None:
        return _inner(split).get_classifier()


class _TimmMaps:
    """timm: the maps or tokens before ``forward_head``."""

    def features(self, split: Split, images: Tensor) -> Tensor:
        return _inner(split).forward_features(split.normalise(images))

    def head(self, split: Split, features: Tensor) -> Tensor:
        return _inner(split).forward_head(features)

    def last(self, split: Split) -> nn.Module | None:
        return _inner(split).get_classifier()


class _Unsplit:
    """No split was found: the model classifies, and says why when asked for more."""

    def __init__(self, reason: InputError) -> None:
        self.reason = str(reason)

    def _refuse(self) -> InputError:
        rule = f"the name of a layer to split the model at: no split was found without one ({self.reason})"
        return InputError("layer", None, rule)

    def features(self, split: Split, images: Tensor) -> Tensor:
        raise self._refuse()

    def head(self, split: Split, features: Tensor) -> Tensor:
        raise self._refuse()

    def last(self, split: Split) -> nn.Module | None:
        return None


class _AtLayer:
    """Cut by tracing. One cut per combination of modes around the layer, since tracing fixes ``self.training``."""

    def __init__(self, layer: str, at: At) -> None:
        self.layer, self.at = layer, at
        self._cuts: dict[tuple[bool, ...], Cut] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {"layer": self.layer, "at": self.at, "_cuts": {}}  # made functions can be made again, not pickled

    def cut(self, split: Split) -> Cut:
        full = f"model.{self.layer}"
        modes = tuple(split.get_submodule(name).training for name in enclosing(full))
        if modes not in self._cuts:
            self._cuts[modes] = cut(split, full, self.at, shown=self.layer)
        return self._cuts[modes]

    def prepare(self, split: Split) -> Cut:
        with moded("train", split):
            self.cut(split)
        with moded("eval", split):
            return self.cut(split)

    def features(self, split: Split, images: Tensor) -> Tensor:
        features = self.cut(split).features(split, images)
        if not isinstance(features, Tensor):
            raise InputError(
                "layer", self.layer, f"a layer that gives one tensor; this gives {type(features).__name__}"
            )
        return features

    def head(self, split: Split, features: Tensor) -> Tensor:
        return self.cut(split).head(split, features)

    def last(self, split: Split) -> nn.Module | None:
        name = self.cut(split).last
        return None if name is None else split.get_submodule(name)


class Split(nn.Module):
    """A classifier with a ``FeatureSplit`` and, if given, normalisation in front. Made by :func:`split_model`.

    The parts use the model's own modules, so parameters, mode and device are always those of the model.
    """

    def __init__(self, model: nn.Module, normalise: nn.Module, way: _Way) -> None:
        super().__init__()
        self.model = model
        self.normalise = normalise
        self._way = way

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, C, H, W) in [0, 1] -> logits (B, K)."""
        return self.model(self.normalise(images))

    def features(self, images: Tensor) -> Tensor:
        """Images (B, C, H, W) in [0, 1] -> the tensor at the cut, (B, D) or maps (B, c, h, w)."""
        return self._way.features(self, images)

    def head(self, features: Tensor) -> Tensor:
        """The tensor at the cut -> logits (B, K). The tensor given is never written to."""
        return self._way.head(self, features)

    @property
    def last(self) -> nn.Linear:
        """The linear layer that gives the logits.

        Raises:
            InputError: the model does not end in one linear layer.
        """
        found = self._way.last(self)
        if not isinstance(found, nn.Linear):
            raise InputError("model", type(self.model).__name__, "a model whose logits come from one linear layer")
        return found


def split_model(
    model: nn.Module,
    layer: str | None = None,
    *,
    at: At = "output",
    normalise: nn.Module | None = None,
    probe: Tensor | None = None,
) -> Split:
    """Split a classifier so that ``head(features(x)) == model(x)``, sharing its parameters.

    With ``layer``, torch.fx cuts the model at the output (or input) of that layer; only the modules around it need
    be traceable. Without, in this order: the model's own methods ``features`` and ``head``; for timm models the
    pooled vector (``forward_head(..., pre_logits=True)``), else the maps of ``forward_features``; the input of the
    linear layer that gives the logits. Where none fits, the result still classifies and ``features`` raises.

    Args:
        model: images (B, C, H, W) to logits (B, K).
        layer: a name as in ``model.named_modules()``; ``"forward_features"`` for timm's own cut.
        at: ``output`` or ``input`` of the layer.
        normalise: applied to the images first; nothing by default.
        probe: images (b, C, H, W) on which the equality is checked, in eval mode; not checked without.

    Raises:
        InputError: unknown layer (with the nearest name); a layer whose value is not one tensor that everything
            behind it depends on alone; modules around it that cannot be traced.

    >>> net = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    >>> parts, images = split_model(net, "2"), torch.rand(5, 1, 2, 2)
    >>> parts.features(images).shape, torch.equal(parts.head(parts.features(images)), net(images))
    (torch.Size([5, 3]), True)
    """
    if at not in ("output", "input"):
        raise InputError("at", at, "'output' or 'input'")
    if isinstance(model, Split):
        normalise = model.normalise if normalise is None else normalise
        model = model.model
    parts = Split(model, nn.Identity() if normalise is None else normalise, _Unsplit(InputError("layer", layer, "-")))
    parts.training = model.training
    failure = None
    for way in _ways(model, layer, at):
        try:
            parts._way = way
            if isinstance(way, _AtLayer):
                ends_in = way.prepare(parts).last
                if layer is None and ends_in != f"model.{way.layer}":
                    continue
            if probe is None or _agrees(parts, probe):
                return parts
            failure = InputError("layer", layer, "a cut whose parts together give the model's logits")
        except InputError as error:
            failure = error
    if layer is not None:
        raise failure or unknown_layer(model, layer)
    parts._way = _Unsplit(failure or InputError("model", type(model).__name__, "a model that ends in a linear layer"))
    return parts


def _methods(model: nn.Module, *names: str) -> bool:
    """Whether the class has these methods; submodules of that name do not count."""
    return all(callable(getattr(type(model), name, None)) for name in names)


def _ways(model: nn.Module, layer: str | None, at: At) -> Iterator[_Way]:
    timm = _methods(model, "forward_features", "forward_head", "get_classifier")
    if layer is not None:
        if layer == TIMM_CUT and timm:
            yield _TimmMaps()
        elif layer and layer in dict(model.named_modules()):
            yield _AtLayer(layer, at)
        return
    if _methods(model, "features", "head"):
        yield _OwnMethods()
    if timm:
        if isinstance(_classifier(model), nn.Linear):
            yield _TimmPooled()
        yield _TimmMaps()
    linears = [name for name, module in model.named_modules() if isinstance(module, nn.Linear) and name]
    for name in reversed(linears):
        yield _AtLayer(name, "input")


def _classifier(model: Any) -> Any:
    return model.get_classifier()


def _agrees(parts: Split, probe: Tensor) -> bool:
    with evaluating(parts), torch.no_grad():
        whole = parts(probe)
        try:
            logits = parts.head(parts.features(probe))
        except InputError:
            raise
        except Exception as error:  # foreign methods of the same name may mean something else
            reason = f"{type(error).__name__}: {error}"
            raise InputError("model", type(parts.model).__name__, f"a model whose parts run ({reason})") from error
    return logits.shape == whole.shape and torch.allclose(logits, whole, rtol=1e-4, atol=1e-5, equal_nan=True)
