"""What all networks of the catalogue have in common.

Shapes: B examples, C channels, H height, W width, D features, K classes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from types import MappingProxyType
from typing import ClassVar

from torch import Tensor, nn

from deconfound.errors import InputError, is_whole, require, require_whole
from deconfound.models.normalise import Levels, Normalise

Size = int | tuple[int, int]
"""Side of a square image, or (height, width)."""


def whole(field: str, value: int, least: int) -> int:
    """The value, if it is a whole number of at least ``least``; an ``InputError`` otherwise."""
    require_whole(field, value, least)
    return value


def share(field: str, value: float) -> float:
    """The value, if it lies in [0, 1); an ``InputError`` otherwise."""
    good = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1
    require(good, field, value, "a number in [0, 1)")
    return float(value)


def sides(size: Size, minimum: int = 1) -> tuple[int, int]:
    """(H, W) of a size.

    Raises:
        InputError: not one or two whole numbers, or a side below ``minimum``.

    >>> sides(28), sides((33, 40))
    ((28, 28), (33, 40))
    """
    rule = f"a side, or (height, width), of at least {minimum} pixels"
    pair = (size, size) if isinstance(size, int) else tuple(size) if isinstance(size, tuple | list) else ()
    good = len(pair) == 2 and all(map(is_whole, pair))
    if not good or min(pair) < minimum:
        raise InputError("size", size, rule)
    return pair[0], pair[1]


class Network(nn.Module, ABC):
    """A classifier in two parts, f = features(images), logits = head(f) = W f (+ b), with normalisation inside.

    Weights are drawn from the global generator, as in every torch layer: build inside ``core.guards.seeded`` to fix
    them. Subclasses set ``last_map`` and ``minimum``.

    Args:
        classes: K, at least 2.
        channels: C, at least 1.
        size: side of the images, or (height, width), of at least ``minimum``.
        mean: subtracted from every channel; None for no normalisation.
        std: divides every channel.

    Attributes:
        minimum: smallest side that the network takes.
        one_size: whether the linear layers fix the size, so that other images are refused.
        last_map: name of the layer whose output is the last map (B, c, h, w) before pooling; of a transformer its
            tokens (B, T, D), of a network without either its last hidden vector.
        aliases: parts of the parameter names in well-known checkpoints, with ours; "" drops a part.
    """

    minimum: ClassVar[int] = 1
    one_size: ClassVar[bool] = False
    aliases: Mapping[str, str] = MappingProxyType({})
    last_map: str

    def __init__(self, *, classes: int, channels: int, size: Size, mean: Levels = None, std: Levels = None) -> None:
        super().__init__()
        self.classes = whole("classes", classes, 2)
        self.channels = whole("channels", channels, 1)
        self.size = sides(size, self.minimum)
        only = self.size if self.one_size else None
        self.normalise = Normalise(mean, std, channels=channels, size=only)

    @property
    @abstractmethod
    def last(self) -> nn.Linear:
        """The last linear layer: weight (K, D), bias (K,) or None."""

    @abstractmethod
    def features(self, images: Tensor) -> Tensor:
        """The input of the last linear layer. images (B, C, H, W) in [0, 1] -> (B, D)."""

    def head(self, features: Tensor) -> Tensor:
        """Features (B, D) -> logits (B, K)."""
        return self.last(features)

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, C, H, W) in [0, 1] -> logits (B, K)."""
        return self.head(self.features(images))


def initialise(model: nn.Module) -> None:
    """Convolutions from N(0, 2 / (k^2 c_out)) (He et al. 2015, for ReLU), biases 0; other layers keep torch's start."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
