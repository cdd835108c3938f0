"""Networks by name: our own, and those of other libraries under one contract.

Shapes: B examples, C channels, H height, W width, K classes.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from torch import nn

from deconfound.errors import unknown_name
from deconfound.models.external import PREFIXES, build_external, is_external
from deconfound.models.mlp import MLP
from deconfound.models.network import Network, Size
from deconfound.models.normalise import Levels
from deconfound.models.preact_resnet import PreActResNet
from deconfound.models.resnet import ResNet
from deconfound.models.small import LeNet5, Small, SmallCNN
from deconfound.models.vgg import VGG
from deconfound.models.vit import ViT
from deconfound.models.wide_resnet import WideResNet


class _Entry(NamedTuple):
    network: type[Network]
    fixed: Mapping[str, Any]


_BASICS = ("classes", "channels", "size", "mean", "std")

_ENTRIES: Mapping[str, _Entry] = MappingProxyType(
    {
        "lenet5": _Entry(LeNet5, {}),
        "mlp": _Entry(MLP, {}),
        "preact-resnet18": _Entry(PreActResNet, {"blocks": (2, 2, 2, 2), "bottleneck": False}),
        "preact-resnet50": _Entry(PreActResNet, {"blocks": (3, 4, 6, 3), "bottleneck": True}),
        "resnet18": _Entry(ResNet, {"blocks": (2, 2, 2, 2), "bottleneck": False, "shortcut": "projection"}),
        "resnet20": _Entry(ResNet, {"blocks": (3, 3, 3), "bottleneck": False, "shortcut": "padding", "width": 16}),
        "resnet34": _Entry(ResNet, {"blocks": (3, 4, 6, 3), "bottleneck": False, "shortcut": "projection"}),
        "resnet50": _Entry(ResNet, {"blocks": (3, 4, 6, 3), "bottleneck": True, "shortcut": "projection"}),
        "small": _Entry(Small, {}),
        "smallcnn": _Entry(SmallCNN, {}),
        "vgg11": _Entry(VGG, {"depth": 11}),
        "vgg13": _Entry(VGG, {"depth": 13}),
        "vgg16": _Entry(VGG, {"depth": 16}),
        "vit": _Entry(ViT, {}),
        "wrn": _Entry(WideResNet, {}),
        "wrn-28-10": _Entry(WideResNet, {"depth": 28, "widen": 10}),
        "wrn-34-10": _Entry(WideResNet, {"depth": 34, "widen": 10}),
    }
)


def names() -> tuple[str, ...]:
    """The names of our own networks.

    >>> "resnet18" in names()
    True
    """
    return tuple(_ENTRIES)


def about(name: str) -> str:
    """One line on one of our own networks."""
    return (_entry(name).network.__doc__ or "").strip().splitlines()[0]


def options_of(name: str) -> tuple[str, ...]:
    """The options that ``build`` takes for one of our own networks.

    Raises:
        InputError: unknown name.

    >>> options_of("wrn-34-10")
    ('bias', 'dropout')
    """
    entry = _entry(name)
    taken = {*_BASICS, *entry.fixed}
    return tuple(key for key in inspect.signature(entry.network).parameters if key not in taken)


def build(
    name: str,
    *,
    classes: int,
    channels: int,
    size: Size,
    mean: Levels = None,
    std: Levels = None,
    **options: Any,
) -> nn.Module:
    """A fresh classifier from its name; it takes raw pixels and has ``features``, ``head`` and ``last``.

    Weights are drawn from the global generator, as in every torch layer: call inside ``core.guards.seeded``.

    Args:
        name: one of :func:`names`, ``timm:NAME``, ``torchvision:NAME``, or ``module:callable``, which is called with
            those of ``classes``, ``channels`` and ``size`` that it takes and returns an ``nn.Module``.
        classes: K, at least 2.
        channels: C, at least 1.
        size: side of the images, or (height, width).
        mean: of the pixels, one number or one per channel; None for no normalisation.
        std: likewise.
        options: further arguments of the network, see :func:`options_of`; for networks of other libraries whatever they
            take, and ``layer``, the layer at which to split.

    Raises:
        InputError: unknown name or option (with the nearest one), a value that the network does not take, a library
            that cannot be imported.

    >>> net = build("small", classes=10, channels=1, size=28)
    >>> sum(parameter.numel() for parameter in net.parameters())
    166406
    """
    if is_external(name):
        return build_external(name, classes=classes, channels=channels, size=size, mean=mean, std=std, options=options)
    entry = _entry(name)
    allowed = options_of(name)
    for option in options:
        if option not in allowed:
            raise unknown_name(f"option of {name}", option, allowed)
    chosen: dict[str, Any] = {**entry.fixed, **options}
    return entry.network(classes=classes, channels=channels, size=size, mean=mean, std=std, **chosen)


def _entry(name: str) -> _Entry:
    if name not in _ENTRIES:
        raise unknown_name("model", name, (*_ENTRIES, *(f"{prefix}NAME" for prefix in PREFIXES), "module:callable"))
    return _ENTRIES[name]
