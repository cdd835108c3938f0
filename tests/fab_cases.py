"""What tests of FAB share: linear and convolutional networks, images at the ends of the box, a count of passes."""

from __future__ import annotations

import torch
from torch import nn

NORMS = ("linf", "l2", "l1")


def linear(classes, seed=0, size=16):
    """Random weights, logits centred over the examples so that several classes are predicted."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Flatten(), nn.Linear(size, classes)).double()
    with torch.no_grad():
        model[1].bias -= model(examples(200, 9)).mean(0)
    return model


def examples(count=40, seed=1, dtype=torch.float64, shape=(1, 4, 4)):
    """Some pixels at the ends of the box, so that it constrains."""
    images = torch.rand(count, *shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)
    images[..., 0] = images[..., 0].round()
    return images


def predictions(model, images):
    with torch.no_grad():
        return model(images).argmax(1)


def conv_net(seed=0, classes=10, dtype=torch.float32):
    """Random weights, logits centred over the examples so that several classes are predicted."""
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3, stride=2, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(128, 32), nn.ReLU()
    ).append(nn.Linear(32, classes))
    with torch.no_grad():
        model[-1].bias -= model(examples(200, 9, torch.float32, (1, 8, 8))).mean(0)
    return model.to(dtype).eval()


class Counting(nn.Module):
    """Counts calls and rows of forwards, and those whose images want a gradient."""

    def __init__(self, inner):
        super().__init__()
        self.inner, self.calls, self.rows, self.climbed = inner, 0, 0, 0

    def forward(self, images):
        self.calls, self.rows = self.calls + 1, self.rows + len(images)
        self.climbed += len(images) * images.requires_grad
        return self.inner(images)
