"""A plain multilayer perceptron on pixels.

Shapes: B examples, C channels, H height, W width, D features, K classes.
"""

from __future__ import annotations

from torch import Tensor, nn

from deconfound.models.network import Network, Size, whole
from deconfound.models.normalise import Levels


class MLP(Network):
    """Hidden linear layers with ReLU on the flattened pixels, and one linear layer; D = width.

    ``last_map`` is the last hidden vector.

    Args:
        width: of every hidden layer.
        depth: number of hidden layers, at least 1.
    """

    one_size = True
    last_map = "hidden"

    def __init__(
        self,
        *,
        classes: int,
        channels: int,
        size: Size,
        mean: Levels = None,
        std: Levels = None,
        bias: bool = True,
        width: int = 256,
        depth: int = 2,
    ) -> None:
        super().__init__(classes=classes, channels=channels, size=size, mean=mean, std=std)
        reached, layers = channels * self.size[0] * self.size[1], list[nn.Module]()
        for _ in range(whole("depth", depth, 1)):
            layers += [nn.Linear(reached, whole("width", width, 1)), nn.ReLU()]
            reached = width
        self.hidden = nn.Sequential(*layers)
        self.linear = nn.Linear(width, classes, bias=bias)

    @property
    def last(self) -> nn.Linear:
        """The last linear layer: weight (K, D)."""
        return self.linear

    def features(self, images: Tensor) -> Tensor:
        """Images (B, C, H, W) in [0, 1] -> (B, D)."""
        return self.hidden(self.normalise(images).flatten(1))
