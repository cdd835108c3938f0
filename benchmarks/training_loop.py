"""The training loop against a bare PyTorch loop of the same PGD adversarial training, in one process.

    python benchmarks/training_loop.py [--threads 1] [--rounds 31] [--out FILE]

Both train the same network on the same images in memory with the same batch size, inner attack (10 steps) and
optimiser; the bare loop logs nothing, checks nothing and saves nothing. The goal is at most 1.05 times its time.
"""

from __future__ import annotations

import argparse

import torch
from torch.nn import functional as F

from deconfound import models
from deconfound.attacks import PGD
from deconfound.core.threat import ThreatModel
from deconfound.data import MemoryImages
from deconfound.objectives import AdversarialTraining
from deconfound.training import Hooks, LoopSettings, SelectionSettings, fit
from timing import paired, pin, report, summary

CASES = {
    "small, 28 px, batch 128": ({"name": "small", "channels": 1, "size": 28}, 0.3, 128, 6),
    "resnet18 width 8, 32 px, batch 64": ({"name": "resnet18", "channels": 3, "size": 32, "width": 8}, 8 / 255, 64, 2),
}
STEPS = 10


def images_for(model: dict, count: int) -> MemoryImages:
    generator = torch.Generator().manual_seed(0)
    shape = (count, model["channels"], model["size"], model["size"])
    pixels = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
    labels = torch.randint(0, 10, (count,), generator=generator)
    return MemoryImages(pixels, labels, tuple("0123456789"), "random")


def bare(net, source: MemoryImages, batch: int, eps: float) -> None:
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)
    net.train()
    for index in torch.randperm(len(source)).split(batch):
        x, y = source.images[index].float().div_(255), source.labels[index]
        net.eval()
        for parameter in net.parameters():
            parameter.requires_grad_(False)
        adversarial = (x + torch.empty_like(x).uniform_(-eps, eps)).clamp_(0, 1)
        for _ in range(STEPS):
            adversarial.requires_grad_()
            (gradient,) = torch.autograd.grad(F.cross_entropy(net(adversarial), y, reduction="sum"), adversarial)
            moved = adversarial.detach() + 2.5 * eps / STEPS * gradient.sign()
            adversarial = torch.min(torch.max(moved, x - eps), x + eps).clamp_(0, 1)
        for parameter in net.parameters():
            parameter.requires_grad_(True)
        net.train()
        optimizer.zero_grad()
        F.cross_entropy(net(adversarial), y).backward()
        optimizer.step()


def ours(net, source: MemoryImages, batch: int, eps: float) -> None:
    attack = PGD(ThreatModel("linf", eps), steps=STEPS, keep="last")
    settings = LoopSettings(epochs=1, batch_size=batch, lr=0.01, selection=SelectionSettings(keep="last"))
    fit(AdversarialTraining(net, attack), source, settings, hooks=Hooks())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=31)
    parser.add_argument("--out")
    options = parser.parse_args()
    pin(options.threads)
    found = {}
    for title, (model, eps, batch, batches) in CASES.items():
        source = images_for(model, batch * batches)
        torch.manual_seed(0)
        nets = [models.build(**model, classes=10) for _ in range(2)]
        contestants = {
            "bare loop": lambda net=nets[0], s=source, b=batch, e=eps: bare(net, s, b, e),
            "deconfound": lambda net=nets[1], s=source, b=batch, e=eps: ours(net, s, b, e),
        }
        found[title] = summary(paired(contestants, options.rounds), "bare loop", batch * batches)
    report("PGD-AT training loop", found, options.out)


if __name__ == "__main__":
    main()
