"""A small vision transformer (Dosovitskiy et al. 2021) in plain torch.

Shapes: B examples, C channels, H height, W width, T patches, D features, K classes; tokens (B, T, D).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deconfound.errors import require
from deconfound.models.network import Network, Size, share, whole
from deconfound.models.normalise import Levels


class Attention(nn.Module):
    """Multi-head self-attention: softmax(Q K^T / sqrt(d)) V in each head, then a linear layer."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens (B, T, D) -> (B, T, D)."""
        split = self.qkv(tokens).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(split[0], split[1], split[2])
        return self.out(mixed.transpose(1, 2).flatten(2))


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)), with a hidden layer of 4 D and GELU."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.norm1, self.attention = nn.LayerNorm(width), Attention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.drop = nn.Dropout(dropout)

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens (B, T, D) -> (B, T, D)."""
        tokens = tokens + self.drop(self.attention(self.norm1(tokens)))
        return tokens + self.drop(self.mlp(self.norm2(tokens)))


class ViT(Network):
    """Patches as tokens with learned positions, pre-norm blocks, LayerNorm, mean over tokens, one linear layer.

    ``last_map`` is the normed tokens (B, T, D), T = floor(H/p) floor(W/p); there is no class token (the mean does as
    well: Beyer et al. 2022, arXiv 2205.01580). What a whole number of patches does not cover is left out.

    Args:
        patch: side p of a patch, at most that of the image.
        width: D, a multiple of ``heads``.
        depth: number of blocks.
        heads: of the attention.
        dropout: share dropped behind attention and MLP in training, in [0, 1).

    Raises:
        InputError: a patch larger than the image, a width that the heads do not divide.
    """

    minimum = 4
    one_size = True
    last_map = "norm"

    def __init__(
        self,
        *,
        classes: int,
        channels: int,
        size: Size,
        mean: Levels = None,
        std: Levels = None,
        bias: bool = True,
        patch: int = 4,
        width: int = 192,
        depth: int = 6,
        heads: int = 3,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(classes=classes, channels=channels, size=size, mean=mean, std=std)
        sides = self.size
        require(whole("patch", patch, 1) <= min(sides), "patch", patch, f"at most the image's side, {min(sides)}")
        divided = whole("width", width, 1) % whole("heads", heads, 1) == 0
        require(divided, "width", width, f"a multiple of the number of heads, {heads}")
        self.embed = nn.Conv2d(channels, width, patch, stride=patch)
        self.position = nn.Parameter(0.02 * torch.randn(1, (sides[0] // patch) * (sides[1] // patch), width))
        rate = share("dropout", dropout)
        self.blocks = nn.Sequential(*(Block(width, heads, rate) for _ in range(whole("depth", depth, 1))))
        self.norm = nn.LayerNorm(width)
        self.linear = nn.Linear(width, classes, bias=bias)

    @property
    def last(self) -> nn.Linear:
        """The last linear layer: weight (K, D)."""
        return self.linear

    def features(self, images: Tensor) -> Tensor:
        """Images (B, C, H, W) in [0, 1] -> (B, D), the mean of the tokens."""
        tokens = self.embed(self.normalise(images)).flatten(2).transpose(1, 2) + self.position
        return self.norm(self.blocks(tokens)).mean(dim=1)
