"""An evaluation in closed form: a linear classifier, its exact worst case as an attack, and the record of both."""

from __future__ import annotations

import json
from dataclasses import dataclass

import torch
from torch import nn

from deconfound.core.threat import ThreatModel
from deconfound.evaluation import Provenance
from deconfound.evaluation.judging import evaluate
from deconfound.records import Machine

THREAT = ThreatModel("linf", 0.05)
ORIGIN = Provenance(
    model="linear",
    model_digest="m",
    data="noise",
    data_digest="d",
    class_names=("a", "b"),
    machine=Machine(device="cpu", processor="any", threads=1, versions={}),
    defence="none",
    training={"epochs": 3},
    notes=("a note",),
)


def linear():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(36, 2))
    with torch.no_grad():
        difference = model[1].weight[1] - model[1].weight[0]
        model[1].bias[:] = torch.stack([difference.sum() * 0.5, torch.zeros(())])  # undecided at grey
    return model, difference


def examples(count=150):
    """Images whose true label is the linear classifier's, but for the first ten."""
    images = 0.1 + 0.8 * torch.rand(count, 1, 6, 6, generator=torch.Generator().manual_seed(1))
    model, difference = linear()
    lead = ((images.flatten(1) - 0.5) * difference).sum(1).detach()
    labels = (lead > 0).to(torch.int64)
    labels[:10] = 1 - labels[:10]
    return model, images, labels, difference, lead.abs()


@dataclass(frozen=True)
class Ascent:
    """The exact worst case of the linear classifier in L-infinity, one gradient and two forwards an image."""

    threat: ThreatModel
    name: str = "ascent"
    share: float = 1.0

    def settings(self):
        return {"share": self.share, "eps": self.threat.eps}

    def __call__(self, model, images, labels, streams=None, context=None, *, judge=None):
        with torch.enable_grad():
            leaf = images.detach().clone().requires_grad_()
            (gradient,) = torch.autograd.grad(nn.functional.cross_entropy(model(leaf), labels, reduction="sum"), leaf)
        moved = self.threat.project(images + self.share * self.threat.eps * self.threat.steepest(gradient), images)
        with torch.no_grad():
            wrong = model(moved).argmax(1) != labels
        return torch.where(wrong.view(-1, 1, 1, 1), moved, images)


def run(model, images, labels=None, attacks=None, **settings):
    settings = {"threat": THREAT, "suite": "test", "provenance": ORIGIN} | settings
    return evaluate(model, images, labels, attacks=attacks or [Ascent(settings["threat"])], **settings)


def untimed(record):
    data = json.loads(record.to_json())
    for part in (data, *data["attacks"]):
        part["seconds"] = 0
    return data | {"cpu_seconds": 0, "notes": len(data["notes"])}
