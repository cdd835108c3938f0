"""VGG with BatchNorm for small images (Simonyan & Zisserman 2015).

Shapes: B examples, C channels, H height, W width, D features, K classes.
"""

from __future__ import annotations

from torch import Tensor, nn

from deconfound.errors import require
from deconfound.models.network import Network, Size, initialise, share, whole
from deconfound.models.normalise import Levels

# Convolutions in each of the five stages, by the depth in the network's name.
_PLANS = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3)}


class VGG(Network):
    """Five stages of 3x3 convolution, BatchNorm and ReLU with max-pooling, mean over the map, one linear layer.

    A pool that would empty the map is left out, so images below 32 pixels work; the parameters and their names do
    not depend on the size. ``last_map`` is the last BatchNorm, before its ReLU. D = 8 * width, or ``hidden``.

    Args:
        depth: 11, 13 or 16.
        width: channels of the first stage; the stages are 1, 2, 4, 8 and 8 times as wide.
        hidden: two further linear layers of this width with ReLU and dropout before the last one (4096 in CiiV's
            VGG-13), or 0 for none.
        dropout: share of the hidden layers that is dropped in training, in [0, 1).
    """

    minimum = 4
    aliases = {"features": "layers", "classifier": "linear"}

    def __init__(
        self,
        *,
        classes: int,
        channels: int,
        size: Size,
        mean: Levels = None,
        std: Levels = None,
        bias: bool = True,
        depth: int = 16,
        width: int = 64,
        hidden: int = 0,
        dropout: float = 0.5,
    ) -> None:
        super().__init__(classes=classes, channels=channels, size=size, mean=mean, std=std)
        require(depth in _PLANS, "depth", depth, "11, 13 or 16")
        whole("width", width, 1)
        self.layers = nn.Sequential(*_layers(channels, width, _PLANS[depth], min(self.size)))
        norms = [name for name, layer in self.layers.named_children() if isinstance(layer, nn.BatchNorm2d)]
        self.last_map = f"layers.{norms[-1]}"
        self.mlp = _mlp(8 * width, whole("hidden", hidden, 0), share("dropout", dropout))
        self.linear = nn.Linear(hidden or 8 * width, classes, bias=bias)
        initialise(self)

    @property
    def last(self) -> nn.Linear:
        """The last linear layer: weight (K, D)."""
        return self.linear

    def features(self, images: Tensor) -> Tensor:
        """Images (B, C, H, W) in [0, 1] -> (B, D)."""
        return self.mlp(self.layers(self.normalise(images)).mean(dim=(2, 3)))


def _layers(channels: int, width: int, plan: tuple[int, ...], side: int) -> list[nn.Module]:
    layers: list[nn.Module] = []
    for place, count in enumerate(plan):
        outputs = width * min(2**place, 8)
        for _ in range(count):
            layers += [nn.Conv2d(channels, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU()]
            channels = outputs
        layers.append(nn.MaxPool2d(2) if side >= 2 else nn.Identity())  # Identity keeps the later layers' names
        side = max(side // 2, 1)
    return layers


def _mlp(inputs: int, hidden: int, dropout: float) -> nn.Sequential:
    if not hidden:
        return nn.Sequential()
    first = [nn.Linear(inputs, hidden), nn.ReLU(), nn.Dropout(dropout)]
    return nn.Sequential(*first, nn.Linear(hidden, hidden), nn.ReLU(), nn.Dropout(dropout))
