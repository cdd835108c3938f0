"""Residual networks with activation before the convolutions (He et al. 2016b, "Identity mappings").

Shapes: B examples, C channels, H height, W width, D features, K classes.
"""

from __future__ import annotations

from torch import Tensor, nn

from deconfound.models.blocks import PreActBlock, PreActBottleneck, conv, stage
from deconfound.models.network import Network, Size, initialise, whole
from deconfound.models.normalise import Levels


class PreActResNet(Network):
    """A 3x3 stem, four stages of pre-activation blocks, BatchNorm and ReLU, mean over the map, one linear layer.

    D = 8 e * width, e = 4 with bottlenecks and 1 otherwise.

    Args:
        blocks: blocks per stage, four numbers.
        bottleneck: 1x1, 3x3, 1x1 blocks instead of two 3x3 convolutions.
        width: channels of the stem and of the first stage.
        final_norm: BatchNorm and ReLU after the last stage, as in the paper; some released code leaves them out.
    """

    minimum = 8
    aliases = {"fc": "linear"}

    def __init__(
        self,
        *,
        classes: int,
        channels: int,
        size: Size,
        mean: Levels = None,
        std: Levels = None,
        bias: bool = True,
        blocks: tuple[int, int, int, int] = (2, 2, 2, 2),
        bottleneck: bool = False,
        width: int = 64,
        final_norm: bool = True,
    ) -> None:
        super().__init__(classes=classes, channels=channels, size=size, mean=mean, std=std)
        block = PreActBottleneck if bottleneck else PreActBlock
        e = block.expansion
        self.conv1 = conv(channels, whole("width", width, 1), 3)
        self.layer1 = stage(block, e, width, width, blocks[0], 1)
        self.layer2 = stage(block, e, e * width, 2 * width, blocks[1], 2)
        self.layer3 = stage(block, e, 2 * e * width, 4 * width, blocks[2], 2)
        self.layer4 = stage(block, e, 4 * e * width, 8 * width, blocks[3], 2)
        self.bn = nn.BatchNorm2d(8 * e * width) if final_norm else nn.Identity()
        self.relu = nn.ReLU() if final_norm else nn.Identity()
        self.last_map = "relu"
        self.linear = nn.Linear(8 * e * width, classes, bias=bias)
        initialise(self)

    @property
    def last(self) -> nn.Linear:
        """The last linear layer: weight (K, D)."""
        return self.linear

    def features(self, images: Tensor) -> Tensor:
        """Images (B, C, H, W) in [0, 1] -> (B, D), the mean of the last map."""
        maps = self.layer2(self.layer1(self.conv1(self.normalise(images))))
        maps = self.relu(self.bn(self.layer4(self.layer3(maps))))
        return maps.mean(dim=(2, 3))
