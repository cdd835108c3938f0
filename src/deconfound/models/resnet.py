"""Residual networks for small images (He et al. 2016).

Shapes: B examples, C channels, H height, W width, D features, K classes.
"""

from __future__ import annotations

from functools import partial

from torch import Tensor, nn
from torch.nn import functional as F

from deconfound.errors import require
from deconfound.models.blocks import BasicBlock, Bottleneck, Shortcut, conv, stage
from deconfound.models.network import Network, Size, initialise, whole
from deconfound.models.normalise import Levels


class ResNet(Network):
    """A 3x3 stem, stages of doubling width and halving size, mean over the map, one linear layer.

    ResNet-18, 34 and 50 have four stages of width 64 to 512, ResNet-20 three of width 16 to 64 with option-A
    shortcuts (section 4.2 of the paper). D = e * width * 2^(stages - 1), e = 4 with bottlenecks and 1 otherwise.

    Args:
        blocks: blocks per stage.
        bottleneck: 1x1, 3x3, 1x1 blocks instead of two 3x3 convolutions.
        width: channels of the stem and of the first stage; 16 makes a narrow ResNet.
        shortcut: ``projection`` (option B) or ``padding`` (option A) where the shape changes.
        stem: side of the first convolution, 3, or 7 with stride 2 for larger images, as CiiV's authors have it. No
            max-pool follows, so it is not the ImageNet network of other libraries, whose weights are refused.
    """

    minimum = 8
    aliases = {"fc": "linear", "downsample": "shortcut"}

    def __init__(
        self,
        *,
        classes: int,
        channels: int,
        size: Size,
        mean: Levels = None,
        std: Levels = None,
        bias: bool = True,
        blocks: tuple[int, ...] = (2, 2, 2, 2),
        bottleneck: bool = False,
        width: int = 64,
        shortcut: Shortcut = "projection",
        stem: int = 3,
    ) -> None:
        super().__init__(classes=classes, channels=channels, size=size, mean=mean, std=std)
        block = Bottleneck if bottleneck else BasicBlock
        make = partial(block, shortcut=shortcut)
        require(stem in (3, 7), "stem", stem, "3 or 7")
        if stem == 7:
            self.aliases = {}  # the names of a network with a max-pool, which would fit and compute something else
        first = conv(channels, whole("width", width, 1), stem, 1 if stem == 3 else 2)
        self.conv1, self.bn1 = first, nn.BatchNorm2d(width)
        reached = width
        self._stages = tuple(f"layer{place + 1}" for place in range(len(blocks)))
        for place, (name, count) in enumerate(zip(self._stages, blocks, strict=True)):
            planes = width * 2**place
            self.add_module(name, stage(make, block.expansion, reached, planes, count, 2 if place else 1))
            reached = block.expansion * planes
        self.last_map = self._stages[-1]
        self.linear = nn.Linear(reached, classes, bias=bias)
        initialise(self)

    @property
    def last(self) -> nn.Linear:
        """The last linear layer: weight (K, D)."""
        return self.linear

    def features(self, images: Tensor) -> Tensor:
        """Images (B, C, H, W) in [0, 1] -> (B, D), the mean of the last map."""
        maps = F.relu(self.bn1(self.conv1(self.normalise(images))))
        for name in self._stages:
            maps = self.get_submodule(name)(maps)
        return maps.mean(dim=(2, 3))
