"""What tests of masking checks share: small networks on bands in noise, and the scene that a check looks at."""

from __future__ import annotations

from functools import partial

import torch
from torch import nn

from deconfound.attacks import FGSM, PGD
from deconfound.attacks.square import Square
from deconfound.core.streams import Streams
from deconfound.core.threat import ThreatModel
from deconfound.core.types import Batch
from deconfound.evaluation import Probes, masking
from deconfound.evaluation.referee import Referee, Sample
from deconfound.functional.predictions import predicted

THREAT = ThreatModel("linf", 0.15)
torch.manual_seed(0)
SOURCE = nn.Sequential(nn.Flatten(), nn.Linear(36, 3))
HONEST = Probes(single_step=FGSM, iterative=PGD, black_box=partial(Square, queries=30), transfer=[SOURCE])
COUNT = 100


class Idle:
    """An attack that finds nothing."""

    name = "idle"

    def __init__(self, threat):
        self.threat = threat

    def settings(self):
        return {}

    def __call__(self, model, images, labels, streams=None, context=None, *, judge=None):
        return images


def data():
    """Three classes: a brighter band, in noise, in images of 6 by 6 pixels."""
    generator = torch.Generator().manual_seed(2)
    labels = torch.arange(COUNT) % 3
    images = 0.3 + 0.3 * torch.rand(COUNT, 1, 6, 6, generator=generator)
    for row in range(COUNT):
        images[row, :, 2 * labels[row] : 2 * labels[row] + 2] += 0.2
    return images, labels


def trained(kind="mlp"):
    images, labels = data()
    torch.manual_seed(0)
    layers = {"linear": [nn.Linear(36, 3)], "mlp": [nn.Linear(36, 32), nn.ReLU(), nn.Linear(32, 3)]}[kind]
    model = nn.Sequential(nn.Flatten(), *layers)
    optimiser = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(150):
        optimiser.zero_grad()
        nn.functional.cross_entropy(model(images), labels).backward()
        optimiser.step()
    return model.eval()


def scene(model, probes=HONEST, threat=THREAT, curve=None, count=COUNT, images=None, labels=None, judged_by=None):
    drawn = data()
    images, labels = (drawn[0] if images is None else images)[:count], (drawn[1] if labels is None else labels)[:count]
    referee = Referee(model, judged_by and judged_by(model), 64, seeds=5 if judged_by else 1)
    correct = predicted(referee.logits(images)) == labels
    streams = Streams(0, range(count))
    return masking.Scene(
        referee, threat, Sample(Batch(images, labels, torch.arange(count)), streams, correct), probes, curve
    )
