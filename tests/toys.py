"""Small objects that several test files use: a source of random images, tiny networks, toy objectives."""

from __future__ import annotations

import hashlib
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn import functional as F

from deconfound.core.streams import Streams
from deconfound.core.threat import ThreatModel
from deconfound.core.types import Batch, Loss, Step


class ToySource:
    """N learnable images: the class is the brightest quadrant."""

    def __init__(self, count=64, classes=4, size=8, seed=0):
        streams = Streams(seed, range(count))
        self.labels = torch.arange(count) % classes
        self.images = streams.uniform((1, size, size)) * 0.4
        half = size // 2
        for i, label in enumerate(self.labels.tolist()):
            row, column = divmod(label % 4, 2)
            self.images[i, :, row * half : (row + 1) * half, column * half : (column + 1) * half] += 0.5
        self.name, self.shape = "toy", (1, size, size)
        self.class_names = tuple(str(k) for k in range(classes))

    def __len__(self):
        return len(self.labels)

    def batches(self, plan, device="cpu"):
        for positions in plan:
            yield Batch(self.images[positions].to(device), self.labels[positions].to(device), positions.to(device))

    def subset(self, positions):
        raise NotImplementedError

    def digest(self):
        return hashlib.sha256(self.images.numpy().tobytes()).hexdigest()


def tiny_net(seed=0, classes=4, size=8, norm=False):
    """Conv, (BatchNorm,) ReLU, linear; without BatchNorm unless asked."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers = [nn.Conv2d(1, 4, 3, padding=1), *([nn.BatchNorm2d(4)] if norm else []), nn.ReLU(), nn.Flatten()]
        return nn.Sequential(*layers, nn.Linear(4 * size * size, classes))


class Game:
    """A GAN-like game on one shared quantity: ``model`` minimises, ``critic`` maximises, strictly in turn."""

    def __init__(self, model, critic):
        self.model, self.critic = model, critic
        self.seen = []

    def players(self):
        return {"model": self.model, "critic": self.critic}

    def value(self, batch):
        return (self.critic(self.model(batch.images)) * (batch.labels[:, None] - 1.5)).mean()

    def steps(self, batch, progress, streams):
        self.seen.append(("before", _weights(self.critic), _weights(self.model)))
        yield Step("critic", lambda: Loss(-self.value(batch), {}))
        self.seen.append(("between", _weights(self.critic), _weights(self.model)))
        yield Step("model", lambda: Loss(self.value(batch), {"value": self.value(batch).detach()}))
        self.seen.append(("after", _weights(self.critic), _weights(self.model)))

    def declared_attacks(self):
        return ()


class PlainCE:
    """Cross entropy, as a host for wrappers."""

    def __init__(self, model):
        self.model, self.evaluations = model, 0

    def players(self):
        return {"model": self.model}

    def steps(self, batch, progress, streams):
        yield Step("model", lambda: self.loss(batch))

    def loss(self, batch):
        self.evaluations += 1
        logits = self.model(batch.images)
        return Loss(F.cross_entropy(logits, batch.labels), {}, logits)

    def declared_attacks(self):
        return ()


class Sharpness:
    """A wrapper that evaluates its host's loss twice: ascends the weights by rho along the gradient, then returns.

    The gradient is taken at the perturbed weights; they are put back before the optimiser steps.
    """

    def __init__(self, host, rho):
        self.host, self.rho = host, rho

    def players(self):
        return self.host.players()

    def steps(self, batch, progress, streams):
        for step in self.host.steps(batch, progress, streams):
            yield Step(step.player, step.loss, lambda step=step: self._perturbed(step))

    @contextmanager
    def _perturbed(self, step):
        parameters = list(self.players()[step.player].parameters())
        saved = [p.detach().clone() for p in parameters]
        gradients = torch.autograd.grad(step.loss().total, parameters)
        try:
            with torch.no_grad():
                for parameter, gradient in zip(parameters, gradients, strict=True):
                    parameter.add_(self.rho * gradient)
            yield
        finally:
            with torch.no_grad():
                for parameter, value in zip(parameters, saved, strict=True):
                    parameter.copy_(value)

    def declared_attacks(self):
        return ()


def _weights(module):
    return [p.detach().clone() for p in module.parameters()]


class MemoryCheckpoints:
    """A checkpointer that keeps copies in memory, newest last."""

    def __init__(self, states=()):
        self.states = list(states)

    def save(self, state):
        import copy

        self.states.append(copy.deepcopy(dict(state)))

    def load(self):
        return self.states[-1] if self.states else None


class Rows:
    """A journal in memory."""

    def __init__(self):
        self.rows = []

    def append(self, entry):
        self.rows.append(dict(entry))

    def entries(self):
        return list(self.rows)


class SplitNet(nn.Module):
    """Conv, (BatchNorm,) ReLU, linear to D features, ReLU; then one linear layer. ``head(features(x)) == model(x)``."""

    def __init__(self, seed=0, classes=4, size=8, norm=False, width=16, bias=True, channels=1):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.conv = nn.Conv2d(channels, 4, 3, padding=1)
            self.norm = nn.BatchNorm2d(4) if norm else nn.Identity()
            self.wide = nn.Linear(4 * size * size, width)
            self.last = nn.Linear(width, classes, bias=bias)
        self.passes = 0

    def features(self, images):
        self.passes += 1
        return F.relu(self.wide(F.relu(self.norm(self.conv(images))).flatten(1)))

    def head(self, features):
        return self.last(features)

    def forward(self, images):
        return self.head(self.features(images))


def stand_ins(recipe, classes, shape):
    """The stages that a recipe builds on, untrained."""
    from deconfound.recipes.players import untrained
    from deconfound.recipes.stages import planned

    found = {}
    for plan in planned(recipe, None):
        found[plan.name] = untrained(plan.recipe, classes, shape, found)
    return found


def dropping_net(classes, channels, side, seed=0):
    """A small network with BatchNorm and dropout, in training mode, for images of ``side`` pixels."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(channels, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.Tanh(),
        nn.Dropout(0.3),
        nn.Flatten(),
        nn.Linear(4 * side**2, classes),
    )


def ball(norm, eps):
    """A ball of any radius; in L-infinity no wider than the box, which it holds then."""
    return ThreatModel(norm, min(eps, 1.0) if norm == "linf" else eps)
