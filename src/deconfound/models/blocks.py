"""Residual blocks, after and before activation, and stages of them.

Shapes: B examples, c input channels of a block, w its width, e its expansion; maps (B, c, h, w') -> (B, e w, ...).
"""

from __future__ import annotations

from typing import ClassVar, Literal, Protocol

from torch import Tensor, nn
from torch.nn import functional as F

Shortcut = Literal["projection", "padding"]
"""What carries a block's input to a block of another shape: He et al. 2016's option B, or option A."""


def conv(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    """A convolution without bias, padded to keep the size at stride 1."""
    return nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=kernel // 2, bias=False)


class PaddingShortcut(nn.Module):
    """Option A of He et al. 2016: every ``stride``-th pixel, with zero channels added on both sides."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        missing = outputs - inputs
        self.before, self.after = missing // 2, missing - missing // 2

    def forward(self, maps: Tensor) -> Tensor:
        """Maps (B, c, h, w) -> (B, outputs, ceil(h / stride), ceil(w / stride))."""
        kept = maps[:, :, :: self.stride, :: self.stride]
        return F.pad(kept, (0, 0, 0, 0, self.before, self.after))


def _shortcut(inputs: int, outputs: int, stride: int, kind: Shortcut) -> nn.Module:
    if stride == 1 and inputs == outputs:
        return nn.Identity()
    if kind == "padding":
        return PaddingShortcut(inputs, outputs, stride)
    return nn.Sequential(conv(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs))


class BasicBlock(nn.Module):
    """relu(shortcut(x) + bn(conv(relu(bn(conv(x)))))), 3x3 convolutions (He et al. 2016)."""

    expansion: ClassVar[int] = 1

    def __init__(self, inputs: int, width: int, stride: int, shortcut: Shortcut) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv(inputs, width, 3, stride), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = conv(width, width, 3), nn.BatchNorm2d(width)
        self.shortcut = _shortcut(inputs, width, stride, shortcut)

    def forward(self, maps: Tensor) -> Tensor:
        """Maps (B, c, h, w) -> (B, width, h / stride, w / stride)."""
        inner = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(maps)))))
        return F.relu(inner + self.shortcut(maps))


class Bottleneck(nn.Module):
    """The 1x1, 3x3, 1x1 block that is four times as wide outside; the stride sits in the 3x3 convolution."""

    expansion: ClassVar[int] = 4

    def __init__(self, inputs: int, width: int, stride: int, shortcut: Shortcut) -> None:
        super().__init__()
        outputs = self.expansion * width
        self.conv1, self.bn1 = conv(inputs, width, 1), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = conv(width, width, 3, stride), nn.BatchNorm2d(width)
        self.conv3, self.bn3 = conv(width, outputs, 1), nn.BatchNorm2d(outputs)
        self.shortcut = _shortcut(inputs, outputs, stride, shortcut)

    def forward(self, maps: Tensor) -> Tensor:
        """Maps (B, c, h, w) -> (B, 4 width, h / stride, w / stride)."""
        inner = F.relu(self.bn1(self.conv1(maps)))
        inner = self.bn3(self.conv3(F.relu(self.bn2(self.conv2(inner)))))
        return F.relu(inner + self.shortcut(maps))


class PreActBlock(nn.Module):
    """a = relu(bn(x)); shortcut + conv(dropout(relu(bn(conv(a))))) (He et al. 2016b; dropout: Zagoruyko 2016).

    The shortcut is x itself, or a 1x1 convolution of a where the shape changes.
    """

    expansion: ClassVar[int] = 1

    def __init__(self, inputs: int, width: int, stride: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(inputs), conv(inputs, width, 3, stride)
        self.bn2, self.conv2 = nn.BatchNorm2d(width), conv(width, width, 3)
        self.drop = nn.Dropout(dropout)
        changes = stride != 1 or inputs != width
        self.shortcut = nn.Sequential(conv(inputs, width, 1, stride)) if changes else None

    def forward(self, maps: Tensor) -> Tensor:
        """Maps (B, c, h, w) -> (B, width, h / stride, w / stride)."""
        active = F.relu(self.bn1(maps))
        carried = maps if self.shortcut is None else self.shortcut(active)
        inner = self.drop(F.relu(self.bn2(self.conv1(active))))
        return self.conv2(inner) + carried


class PreActBottleneck(nn.Module):
    """The bottleneck with BatchNorm and ReLU before each convolution (He et al. 2016b)."""

    expansion: ClassVar[int] = 4

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        outputs = self.expansion * width
        self.bn1, self.conv1 = nn.BatchNorm2d(inputs), conv(inputs, width, 1)
        self.bn2, self.conv2 = nn.BatchNorm2d(width), conv(width, width, 3, stride)
        self.bn3, self.conv3 = nn.BatchNorm2d(width), conv(width, outputs, 1)
        changes = stride != 1 or inputs != outputs
        self.shortcut = nn.Sequential(conv(inputs, outputs, 1, stride)) if changes else None

    def forward(self, maps: Tensor) -> Tensor:
        """Maps (B, c, h, w) -> (B, 4 width, h / stride, w / stride)."""
        active = F.relu(self.bn1(maps))
        carried = maps if self.shortcut is None else self.shortcut(active)
        inner = self.conv2(F.relu(self.bn2(self.conv1(active))))
        return self.conv3(F.relu(self.bn3(inner))) + carried


class _MakeBlock(Protocol):
    def __call__(self, inputs: int, width: int, stride: int) -> nn.Module: ...


def stage(make: _MakeBlock, expansion: int, inputs: int, width: int, blocks: int, stride: int) -> nn.Sequential:
    """``blocks`` blocks of one width; the first has the stride and takes ``inputs`` channels."""
    chain = [make(inputs=inputs, width=width, stride=stride)]
    chain += [make(inputs=expansion * width, width=width, stride=1) for _ in range(blocks - 1)]
    return nn.Sequential(*chain)
