"""The networks of CAFE's game, hypothesis model h and test function g alike: feature in, feature of that shape out.

Shapes: B examples, c channels, h height, w width, T tokens, D features; maps (B, c, h, w), tokens (B, T, D), vectors
(B, D).

Source: Kim, Lee, Ro 2023, arXiv 2303.01052; the linear form is ours, layer for layer.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

from torch import Tensor, nn

from deconfound.core.guards import seeded
from deconfound.errors import InputError, require
from deconfound.functional.hashing import name_key
from deconfound.models.network import whole

Form = Literal["auto", "convolutional", "linear"]
FORMS: tuple[Form, ...] = ("auto", "convolutional", "linear")

SLOPE = 0.2
"""Of every LeakyReLU."""


def _chain(layers: Iterable[tuple[nn.Module, nn.Module]], *, ends_linear: bool = False) -> nn.Sequential:
    """Layer, BatchNorm, LeakyReLU, and so on; the decoder ends without LeakyReLU, since features have both signs."""
    parts = [[layer, norm, nn.LeakyReLU(SLOPE)] for layer, norm in layers]
    if ends_linear:
        parts[-1].pop()
    return nn.Sequential(*(nn.Sequential(*part) for part in parts))


def _bottleneck(width: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, width), nn.LeakyReLU(SLOPE))


class ConvolutionalNet(nn.Module):
    """Encoder, global average pool, linear layer, broadcast, decoder; all convolutions 3x3 at stride 1.

    c -> c -> c -> 2c by convolutions, 2c -> 2c by a linear layer on the pooled map, 2c -> c -> c -> c by transposed
    convolutions; BatchNorm and LeakyReLU 0.2 after each convolution (BatchNorm alone after the last one, since
    features have both signs), LeakyReLU 0.2 after the linear layer.

    Args:
        channels: c, at least 1.

    Departure from the authors' code: every layer has torch's start; their own initialisation reaches one layer only.

    >>> import torch
    >>> ConvolutionalNet(4)(torch.rand(2, 4, 5, 6)).shape
    torch.Size([2, 4, 5, 6])
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        c = self.channels = whole("channels", channels, 1)
        self.encoder = _chain(
            (nn.Conv2d(i, o, 3, padding=1), nn.BatchNorm2d(o)) for i, o in ((c, c), (c, c), (c, 2 * c))
        )
        self.linear = _bottleneck(2 * c)
        self.decoder = _chain(
            ((nn.ConvTranspose2d(i, o, 3, padding=1), nn.BatchNorm2d(o)) for i, o in ((2 * c, c), (c, c), (c, c))),
            ends_linear=True,
        )

    def forward(self, features: Tensor) -> Tensor:
        """Maps (B, c, h, w) -> (B, c, h, w).

        Raises:
            InputError: features that are not maps of c channels.
        """
        if features.ndim != 4 or features.shape[1] != self.channels:
            raise InputError("features", tuple(features.shape), f"maps (B, {self.channels}, h, w); {_ADVICE}")
        code = self.linear(self.encoder(features).mean(dim=(2, 3)))
        return self.decoder(code[:, :, None, None].expand(-1, -1, *features.shape[2:]))


_ADVICE = "features without spatial extent, tokens (B, T, D) or vectors (B, D), take the linear form"


class _RowNorm(nn.Module):
    """BatchNorm of each feature over all rows: (..., D) -> (..., D)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(width)

    def forward(self, rows: Tensor) -> Tensor:
        return self.norm(rows.flatten(0, -2)).view(rows.shape)


class LinearNet(nn.Module):
    """The same with linear layers, each token by itself; the pool is the mean over tokens, of a vector the vector.

    D -> D -> D -> 2D, pool, 2D -> 2D, broadcast to all tokens, 2D -> D -> D -> D.

    Args:
        dimension: D, at least 1.

    >>> import torch
    >>> net = LinearNet(4)
    >>> net(torch.rand(2, 4)).shape, net(torch.rand(2, 7, 4)).shape
    (torch.Size([2, 4]), torch.Size([2, 7, 4]))
    """

    def __init__(self, dimension: int) -> None:
        super().__init__()
        d = self.dimension = whole("dimension", dimension, 1)
        self.encoder = _chain((nn.Linear(i, o), _RowNorm(o)) for i, o in ((d, d), (d, d), (d, 2 * d)))
        self.linear = _bottleneck(2 * d)
        self.decoder = _chain(
            ((nn.Linear(i, o), _RowNorm(o)) for i, o in ((2 * d, d), (d, d), (d, d))), ends_linear=True
        )

    def forward(self, features: Tensor) -> Tensor:
        """Tokens (B, T, D) or vectors (B, D) -> the same shape.

        Raises:
            InputError: features of another rank or width.
        """
        if features.ndim not in (2, 3) or features.shape[-1] != self.dimension:
            rule = f"tokens (B, T, {self.dimension}) or vectors (B, {self.dimension})"
            raise InputError("features", tuple(features.shape), rule)
        code = self.encoder(features)
        if features.ndim == 3:
            code = self.linear(code.mean(dim=1))[:, None].expand(-1, features.shape[1], -1)
        else:
            code = self.linear(code)
        return self.decoder(code)


def causal_net(
    shape: Sequence[int], form: Form = "auto", *, role: str = "h", seed: int = 0
) -> ConvolutionalNet | LinearNet:
    """A fresh network for features of one example's shape, as ``probed_shape`` finds it.

    Args:
        shape: (c, h, w) of maps, (T, D) of tokens, (D,) of vectors.
        form: ``convolutional`` for maps, ``linear`` for the others; ``auto`` chooses by the shape.
        role: ``h`` and ``g`` of one seed start from different weights.
        seed: of the first weights.

    Raises:
        InputError: unknown form, features without spatial extent for the convolutional form, maps for the linear one.

    >>> type(causal_net((8, 4, 4))).__name__, type(causal_net((16, 32))).__name__
    ('ConvolutionalNet', 'LinearNet')
    """
    require(form in FORMS, "form", form, f"one of {', '.join(FORMS)}")
    shape = tuple(shape)
    require(1 <= len(shape) <= 3, "features", shape, "maps (c, h, w), tokens (T, D) or vectors (D,)")
    maps = len(shape) == 3
    if form == "convolutional" and not maps:
        raise InputError("features", shape, f"maps (c, h, w) for the convolutional form; {_ADVICE}")
    if form == "linear" and maps:
        raise InputError("features", shape, "tokens (T, D) or vectors (D,) for the linear form; maps are convolved")
    with seeded(name_key("causal network", role, seed)):
        return ConvolutionalNet(shape[0]) if maps else LinearNet(shape[-1])
