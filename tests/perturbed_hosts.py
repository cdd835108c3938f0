"""What tests of weight perturbation share: hosts, a batch, and weights before and after."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from deconfound.attacks import PGD
from deconfound.core.streams import Streams
from deconfound.core.threat import ThreatModel
from deconfound.core.types import Loss, Progress, Step
from deconfound.models.style_branch import StyleBranch
from deconfound.objectives import AdversarialTraining, CausalAdv
from deconfound.objectives.styled import StyleLoss
from toys import ToySource

THREAT = ThreatModel("linf", 0.1)
PROGRESS = Progress(epoch=1, epochs=4)


def setting(count=12):
    batch = next(ToySource(count).batches([torch.arange(count)]))
    return batch, Streams(5, batch.index)


def weights(model):
    return [p.detach().clone() for p in model.parameters()]


def same(first, second):
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def pgd_at(model, **changes):
    return AdversarialTraining(model, PGD(THREAT, steps=2, keep="last"), **changes)


def causaladv(model):
    attack = PGD(THREAT, steps=2, keep="last", loss=StyleLoss())
    return CausalAdv(model, StyleBranch(16, 4, seed=0), attack)


class Given:
    """A host whose adversarial images and loss are given."""

    def __init__(self, model, loss):
        self.model, self._loss = model, loss

    def players(self):
        return {"model": self.model}

    def craft(self, batch, progress, streams):
        return batch.images

    def loss(self, batch, adversarial, progress, streams):
        return self._loss(self.model(adversarial), batch)

    def steps(self, batch, progress, streams):
        yield Step("model", lambda: self.loss(batch, batch.images, progress, streams), adversarial=batch.images)

    def declared_attacks(self):
        return ()


def plain(logits, batch):
    return Loss(F.cross_entropy(logits, batch.labels), {}, logits.detach())
