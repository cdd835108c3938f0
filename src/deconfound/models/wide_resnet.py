"""Wide residual networks (Zagoruyko & Komodakis 2016).

Shapes: B examples, C channels, H height, W width, D features, K classes.
"""

from __future__ import annotations

from functools import partial

from torch import Tensor, nn

from deconfound.errors import require
from deconfound.models.blocks import PreActBlock, conv, stage
from deconfound.models.network import Network, Size, initialise, share, whole
from deconfound.models.normalise import Levels


class WideResNet(Network):
    """A stem of 16 channels, three stages of (depth - 4) / 6 pre-activation blocks, BatchNorm, ReLU, mean, linear.

    D = 64 * widen.

    Args:
        depth: 4 more than a multiple of 6, e.g. 28 or 34.
        widen: stages are 16, 32 and 64 times this wide.
        dropout: share dropped between the two convolutions of a block in training, in [0, 1).

    Raises:
        InputError: a depth that leaves no whole number of blocks.
    """

    minimum = 4
    aliases = {"layer": "", "convShortcut": "shortcut.0", "linear": "fc"}
    last_map = "relu"

    def __init__(
        self,
        *,
        classes: int,
        channels: int,
        size: Size,
        mean: Levels = None,
        std: Levels = None,
        bias: bool = True,
        depth: int = 28,
        widen: int = 10,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(classes=classes, channels=channels, size=size, mean=mean, std=std)
        rule = "4 more than a multiple of 6, such as 28 or 34"
        require((whole("depth", depth, 10) - 4) % 6 == 0, "depth", depth, rule)
        make, blocks = partial(PreActBlock, dropout=share("dropout", dropout)), (depth - 4) // 6
        width = 16 * whole("widen", widen, 1)
        self.conv1 = conv(channels, 16, 3)
        self.block1 = stage(make, 1, 16, width, blocks, 1)
        self.block2 = stage(make, 1, width, 2 * width, blocks, 2)
        self.block3 = stage(make, 1, 2 * width, 4 * width, blocks, 2)
        self.bn1, self.relu = nn.BatchNorm2d(4 * width), nn.ReLU()
        self.fc = nn.Linear(4 * width, classes, bias=bias)
        initialise(self)

    @property
    def last(self) -> nn.Linear:
        """The last linear layer: weight (K, D)."""
        return self.fc

    def features(self, images: Tensor) -> Tensor:
        """Images (B, C, H, W) in [0, 1] -> (B, D), the mean of the last map."""
        maps = self.block3(self.block2(self.block1(self.conv1(self.normalise(images)))))
        return self.relu(self.bn1(maps)).mean(dim=(2, 3))
