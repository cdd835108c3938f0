"""Small networks for digits and similar images.

Shapes: B examples, C channels, H height, W width, D features, K classes.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from deconfound.models.input_conv import InputConv2d
from deconfound.models.network import Network, Size, initialise, share
from deconfound.models.normalise import Levels


class Small(Network):
    """Two strided 4x4 convolutions and a hidden layer of 100 (Wong & Kolter 2018).

    conv C-16, conv 16-32 (each 4x4, stride 2, padding 1), linear 32 floor(H/4) floor(W/4) - 100, linear 100-K; D = 100.
    """

    minimum = 4
    one_size = True
    aliases = {"0": "conv1", "2": "conv2", "5": "linear1", "7": "linear2"}
    last_map = "relu2"

    def __init__(
        self, *, classes: int, channels: int, size: Size, mean: Levels = None, std: Levels = None, bias: bool = True
    ) -> None:
        super().__init__(classes=classes, channels=channels, size=size, mean=mean, std=std)
        height, width = self.size
        self.conv1 = InputConv2d(channels, 16, 4, stride=2, padding=1)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(16, 32, 4, stride=2, padding=1)
        self.relu2 = nn.ReLU()
        self.linear1 = nn.Linear(32 * (height // 4) * (width // 4), 100)
        self.linear2 = nn.Linear(100, classes, bias=bias)
        initialise(self)

    @property
    def last(self) -> nn.Linear:
        """The last linear layer: weight (K, 100)."""
        return self.linear2

    def features(self, images: Tensor) -> Tensor:
        """Images (B, C, H, W) in [0, 1] -> (B, 100)."""
        maps = self.relu2(self.conv2(self.relu1(self.conv1(self.normalise(images)))))
        return F.relu(self.linear1(maps.flatten(1)))


class LeNet5(Network):
    """Two padded 3x3 convolutions with max-pooling and a hidden layer of 200 (advertorch's LeNet5).

    conv C-32, pool, conv 32-64, pool, linear 64 floor(H/4) floor(W/4) - 200, linear 200-K; D = 200.
    """

    minimum = 4
    one_size = True
    last_map = "relu2"

    def __init__(
        self, *, classes: int, channels: int, size: Size, mean: Levels = None, std: Levels = None, bias: bool = True
    ) -> None:
        super().__init__(classes=classes, channels=channels, size=size, mean=mean, std=std)
        height, width = self.size
        self.conv1 = InputConv2d(channels, 32, 3, padding=1)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(32, 64, 3, padding=1)
        self.relu2 = nn.ReLU()
        self.linear1 = nn.Linear(64 * (height // 4) * (width // 4), 200)
        self.linear2 = nn.Linear(200, classes, bias=bias)
        initialise(self)

    @property
    def last(self) -> nn.Linear:
        """The last linear layer: weight (K, 200)."""
        return self.linear2

    def features(self, images: Tensor) -> Tensor:
        """Images (B, C, H, W) in [0, 1] -> (B, 200)."""
        maps = F.max_pool2d(self.relu1(self.conv1(self.normalise(images))), 2)
        maps = F.max_pool2d(self.relu2(self.conv2(maps)), 2)
        return F.relu(self.linear1(maps.flatten(1)))


class SmallCNN(Network):
    """The MNIST network of TRADES (Zhang et al. 2019): four unpadded 3x3 convolutions, two hidden layers of 200.

    conv C-32, conv 32-32, pool, conv 32-64, conv 64-64, pool, linear - 200, dropout, linear 200-200, linear 200-K;
    D = 200. Departure: the last layer starts like the others, not at zero.

    Args:
        dropout: share of the first hidden layer that is dropped in training, in [0, 1).
    """

    minimum = 16
    one_size = True
    aliases = {"feature_extractor": "", "classifier": ""}
    last_map = "relu4"

    def __init__(
        self,
        *,
        classes: int,
        channels: int,
        size: Size,
        mean: Levels = None,
        std: Levels = None,
        bias: bool = True,
        dropout: float = 0.5,
    ) -> None:
        super().__init__(classes=classes, channels=channels, size=size, mean=mean, std=std)
        rows, columns = (((side - 4) // 2 - 4) // 2 for side in self.size)
        self.conv1, self.relu1 = InputConv2d(channels, 32, 3), nn.ReLU()
        self.conv2, self.relu2 = nn.Conv2d(32, 32, 3), nn.ReLU()
        self.conv3, self.relu3 = nn.Conv2d(32, 64, 3), nn.ReLU()
        self.conv4, self.relu4 = nn.Conv2d(64, 64, 3), nn.ReLU()
        self.fc1 = nn.Linear(64 * rows * columns, 200)
        self.drop = nn.Dropout(share("dropout", dropout))
        self.fc2 = nn.Linear(200, 200)
        self.fc3 = nn.Linear(200, classes, bias=bias)
        initialise(self)

    @property
    def last(self) -> nn.Linear:
        """The last linear layer: weight (K, 200)."""
        return self.fc3

    def features(self, images: Tensor) -> Tensor:
        """Images (B, C, H, W) in [0, 1] -> (B, 200)."""
        maps = self.relu1(self.conv1(self.normalise(images)))
        maps = F.max_pool2d(self.relu2(self.conv2(maps)), 2)
        maps = self.relu3(self.conv3(maps))
        maps = F.max_pool2d(self.relu4(self.conv4(maps)), 2)
        hidden = self.drop(F.relu(self.fc1(maps.flatten(1))))
        return F.relu(self.fc2(hidden))
