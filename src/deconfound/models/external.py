"""Networks of other libraries under our contract: raw pixels in, logits out, split in features and head.

Shapes: C channels, H height, W width, K classes.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

from deconfound.core.checks import check_logits
from deconfound.core.guards import evaluating
from deconfound.core.imported import imported
from deconfound.core.protocols import DeclaresSurrogates, StochasticClassifier, ViewedClassifier
from deconfound.core.streams import Streams
from deconfound.errors import InputError, reason, require, unknown_name
from deconfound.models.network import Size, sides, whole
from deconfound.models.normalise import Levels, Normalise
from deconfound.models.split import split_model

PREFIXES = ("timm:", "torchvision:")


def is_external(name: str) -> bool:
    """Whether a model name has the form ``library:NAME`` or ``module:callable``."""
    return ":" in name


def build_external(
    name: str,
    *,
    classes: int,
    channels: int,
    size: Size,
    mean: Levels,
    std: Levels,
    options: Mapping[str, Any],
) -> nn.Module:
    """Build, wrap with normalisation and try once, on a grey ramp, that shape, classes and split are right.

    A network that draws its predictions, looks several times or declares attacks on itself keeps those methods: it is
    returned as it is, and brings its normalisation with it.

    Raises:
        InputError: see ``catalogue.build``; also a network that does not take such images or gives other logits, and
            mean, std or layer with one that is returned as it is.
    """
    whole("classes", classes, 2)
    whole("channels", channels, 1)
    height, width = sides(size)
    normalise = Normalise(mean, std, channels=channels)
    settings = dict(options)
    layer = settings.pop("layer", None)
    library, _, rest = name.partition(":")
    make = {"timm": _timm, "torchvision": _torchvision}.get(library)
    if make is None:
        model = _callable(name, classes, channels, height if height == width else (height, width), settings)
    else:
        model = make(rest, classes, channels, (height, width), settings)
    probe = torch.linspace(0, 1, channels * height * width).view(1, channels, height, width)
    if isinstance(model, StochasticClassifier | ViewedClassifier | DeclaresSurrogates):
        for field, value in (("mean", mean), ("std", std), ("layer", layer)):
            require(value is None, field, value, f"none: {name} has methods of its own that a wrapper would hide")
        return _special(name, model, probe, classes)
    _try(name, nn.Sequential(normalise, model), probe, classes)
    return split_model(model, layer, normalise=normalise, probe=probe)


def _special(name: str, model: nn.Module, probe: Tensor, classes: int) -> nn.Module:
    """The network itself, tried once: by a draw where it draws."""
    tried = model
    if isinstance(model, StochasticClassifier):
        tried = _Draw(model)
    _try(name, tried, probe, classes)
    return model


class _Draw(nn.Module):
    """One draw as a forward pass."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, C, H, W) -> logits (B, K)."""
        logits: Tensor = self.model.draw(images, Streams(0, range(len(images))), 1)[0]  # type: ignore[operator]
        return logits


def _try(name: str, model: nn.Module, probe: Tensor, classes: int) -> None:
    shape = f"{tuple(probe.shape)} images"
    try:
        with evaluating(model), torch.no_grad():
            logits = model(probe)
    except Exception as error:  # foreign code on a shape it may not know: anything can come out of it
        raise InputError("model", name, f"a network that takes {shape}, but {reason(error)}") from error
    found = check_logits(logits, 1)
    require(found == classes, "model", name, f"{classes} classes in its output, not {found}")


def _library(name: str, spec: str) -> Any:
    try:
        return import_module(name)
    except Exception as error:  # a broken installation raises more than ImportError
        advice = f"pip install 'deconfound[{name}]'"
        if name == "torchvision" or "torchvision" in str(error):
            advice += f", with a torchvision built for torch {torch.__version__}"
        raise InputError("model", spec, f"an importable {name} ({reason(error)}); {advice}") from error


def _made(spec: str, make: Callable[..., Any], *args: Any, **settings: Any) -> nn.Module:
    try:
        model = make(*args, **settings)
    except InputError:
        raise
    except Exception as error:  # foreign constructors raise what they like
        raise InputError("model", spec, f"arguments that it takes; {reason(error)}") from error
    require(
        isinstance(model, nn.Module), "model", spec, f"a callable that returns a torch.nn.Module, not {model!r:.80}"
    )
    return model


def _unknown(library: str, name: str, known: list[str]) -> InputError:
    """Hundreds of names would hide the message, so only the nearest is shown."""
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f" (did you mean '{library}:{near[0]}'?)" if near else ""
    return InputError("model", f"{library}:{name}", f"one of the {len(known)} networks that {library} lists{hint}")


def _timm(name: str, classes: int, channels: int, size: tuple[int, int], settings: dict[str, Any]) -> nn.Module:
    timm = _library("timm", f"timm:{name}")
    if not timm.is_model(name):
        raise _unknown("timm", name, timm.list_models())
    known = timm.models.get_pretrained_cfg(name)
    if known is not None and known.fixed_input_size:
        settings.setdefault("img_size", size)
    return _made(f"timm:{name}", timm.create_model, name, num_classes=classes, in_chans=channels, **settings)


def _torchvision(name: str, classes: int, channels: int, size: tuple[int, int], settings: dict[str, Any]) -> nn.Module:
    spec = f"torchvision:{name}"
    models = _library("torchvision", spec).models
    known = models.list_models(module=models)
    if name not in known:
        raise _unknown("torchvision", name, known)
    require(channels == 3, "channels", channels, f"3, which is what {spec} takes; timm networks take any number")
    return _made(spec, models.get_model, name, num_classes=classes, **settings)


def _callable(spec: str, classes: int, channels: int, size: Size, settings: dict[str, Any]) -> nn.Module:
    make = _found(spec)
    parameters = _parameters(make)
    offered: dict[str, Any] = {"classes": classes, "channels": channels, "size": size}
    if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        offered = {key: value for key, value in offered.items() if key in parameters}
        for key in settings:
            if key not in parameters:
                raise unknown_name(f"option of {spec}", key, (*parameters, "layer"))
    return _made(spec, make, **offered, **settings)


def _parameters(make: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    try:
        return inspect.signature(make).parameters
    except (TypeError, ValueError):  # some built-in callables have no signature
        return {}


def _found(spec: str) -> Callable[..., Any]:
    found = imported(spec, "model", ", timm:NAME or torchvision:NAME")
    require(callable(found), "model", spec, "the name of something that can be called")
    return found
