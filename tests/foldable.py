"""Small networks whose BatchNorm can be folded, or cannot, for a different reason each."""

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations


def images(channels=3, side=8, count=6):
    return torch.rand(count, channels, side, side, generator=torch.Generator().manual_seed(3))


def awakened(model):
    """BatchNorm with statistics and weights that matter, among them negative ones."""
    draw = torch.Generator().manual_seed(7)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            if module.track_running_stats:
                module.running_mean.normal_(0, 0.5, generator=draw)
                module.running_var.uniform_(0.3, 3, generator=draw)
            module.weight.data.normal_(0.5, 1, generator=draw)
            module.bias.data.normal_(0, 0.5, generator=draw)
    return model.eval().requires_grad_(False)


def norms(model):
    return sum(isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d) for module in model.modules())


class Body(nn.Module):
    """Maps -> logits; the part in front differs from net to net."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 6, 3, padding=1, bias=False)
        self.norm, self.other = nn.BatchNorm2d(6), nn.BatchNorm2d(6)
        self.last = nn.Linear(6, 3)

    def maps(self, x):
        return self.other(F.relu(self.second(self.norm(self.first(x)))))

    def forward(self, x):
        return self.last(F.relu(self.maps(x)).mean(dim=(2, 3)))


class NormShared(Body):
    def maps(self, x):
        return self.norm(self.second(F.relu(self.norm(self.first(x)))))


class NormInBranch(Body):
    def maps(self, x):
        mapped = self.first(x)
        return F.relu(self.norm(mapped)) + mapped


class NormAfterAddition(Body):
    def maps(self, x):
        mapped = self.first(x)
        return self.other(F.relu(self.norm(mapped + self.second(mapped))))


class ConvReused(Body):
    def maps(self, x):
        inner = F.relu(self.norm(self.second(self.first(x))))
        return self.other(self.second(inner)) + self.second(inner)


class Functional(Body):
    def maps(self, x):
        norm = self.norm
        mapped = F.batch_norm(
            self.first(x), norm.running_mean, norm.running_var, norm.weight, norm.bias, False, 0.1, 0.01
        )
        return self.other(self.second(mapped.relu_()))


class BatchStatistics(Body):
    """Its last BatchNorm uses those of the batch in eval mode too."""

    def __init__(self):
        super().__init__()
        self.other = nn.BatchNorm2d(6, track_running_stats=False)


class ValueDependent(Body):
    def maps(self, x):
        return super().maps(x if x.sum() > 0 else -x)


class InPlace(Body):
    """In-place operations whose inputs others read afterwards."""

    def maps(self, x):
        mapped = self.first(x)
        active = F.relu(mapped, inplace=True)
        summed = self.second(active)
        doubled = summed + summed
        doubled += mapped
        view = doubled.flatten(2)
        view.relu_()
        return doubled * 0.5 + summed


class Pooled(Body):
    def maps(self, x):
        active = F.relu(self.first(x))
        return F.max_pool2d(active, 3, stride=2, padding=1) + F.max_pool2d(F.relu(self.second(active)), 2)


class LinearNorm(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two, self.last = nn.Linear(192, 5), nn.Linear(5, 5), nn.Linear(25, 3)
        self.flat, self.tokens = nn.BatchNorm1d(5), nn.BatchNorm1d(5)

    def forward(self, x):
        hidden = F.relu(self.flat(self.one(x.flatten(1))))
        tokens = hidden.unsqueeze(2) * hidden.unsqueeze(1)
        return self.last(self.tokens(self.two(tokens)).flatten(1))


class Weightnormed(Body):
    def __init__(self):
        super().__init__()
        parametrizations.weight_norm(self.second)
        parametrizations.spectral_norm(self.last)
