"""What the authors' code of CAFE was recorded to do, and networks of ours with its weights."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from deconfound.models.causal_nets import ConvolutionalNet


class Maps(nn.Module):
    """Features are the images, the head their mean and a linear layer, so that recorded features can be put in."""

    def __init__(self, weight, bias):
        super().__init__()
        self.last = nn.Linear(weight.shape[1], len(weight))
        self.last.weight, self.last.bias = nn.Parameter(weight.clone()), nn.Parameter(bias.clone())

    def features(self, images):
        return images

    def head(self, features):
        return self.last(features.mean(dim=(2, 3)))

    def forward(self, images):
        return self.head(self.features(images))


def recorded_net(recorded, role):
    net, start = ConvolutionalNet(8), f"{role}."
    own = {key.removeprefix(start): value for key, value in recorded.items() if key.startswith(start)}
    net.load_state_dict({ours(key): value for key, value in own.items()})
    return net


def ours(key):
    return key.replace(".conv.", ".").replace(".deconv.", ".")


def recording(shared, name):
    with np.load(shared / "golden" / f"{name}.npz") as file:
        return {key: torch.from_numpy(np.asarray(file[key])) for key in file.files}
