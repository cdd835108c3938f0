"""What CausalAdv costs: time per training step against PGD-AT, and the correction by label against that by example.

    python benchmarks/causaladv.py [--threads 1] [--rounds 15] [--batch 32] [--width 64] [--classes 10,100,1000]
                                   [--device cpu] [--precision 32-true] [--out FILE]

Steps: ResNet-18 on 32 px (width 64: d = 512), ten attack steps, both objectives in the same process and loop with the
same attack, network and batch. With K = 10 and 100 the covariances are full, with K = 1000 in the form that their bound
leaves. Counted in forwards the floor is 27/23 = 1.17; the goal is at most 1.25.

Correction: one evaluation of all that a step asks of it, ten attack steps and two updates, as a table by label and as
the sum over examples written out below; with it what either keeps in memory.
"""

from __future__ import annotations

import argparse
import logging

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from deconfound import models
from deconfound.attacks import PGD
from deconfound.core.threat import ThreatModel
from deconfound.data import MemoryImages
from deconfound.functional.marginalisation import correction_table
from deconfound.models.style_branch import StyleBranch, bounded_form
from deconfound.objectives import AdversarialTraining, CausalAdv
from deconfound.objectives.styled import StyleLoss, linear_layer
from deconfound.training import LoopSettings, SelectionSettings, fit
from timing import paired, pin, report, summary

THREAT = ThreatModel("linf", 8 / 255)
STEPS = 10
UPDATES = 2


def images_for(count: int, classes: int) -> MemoryImages:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8, generator=generator)
    labels = torch.randint(0, classes, (count,), generator=generator)
    return MemoryImages(pixels, labels, tuple(map(str, range(classes))), "random")


def network(classes: int, width: int) -> nn.Module:
    torch.manual_seed(0)
    return models.build("resnet18", classes=classes, channels=3, size=32, width=width, bias=False)


class Run:
    """Training steps of one objective in the library's loop."""

    def __init__(self, objective, source: MemoryImages, batch: int, device: str, precision: str) -> None:
        self.objective, self.source, self.device = objective, source, device
        self.fabric = Fabric(accelerator="cuda" if device == "cuda" else "cpu", devices=1, precision=precision)
        self.settings = LoopSettings(
            epochs=1,
            batch_size=batch,
            lr=0.01,
            precision=precision,
            channels_last=True,
            selection=SelectionSettings(keep="last"),
        )

    def __call__(self) -> None:
        """One epoch."""
        fit(self.objective, self.source, self.settings, self.fabric)
        synchronise(self.device)


def synchronise(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def steps(classes: int, options: argparse.Namespace) -> dict:
    """Seconds of both objectives for the same batches."""
    source = images_for(options.batch * options.batches, classes)
    plain, model = network(classes, options.width), network(classes, options.width)
    last = linear_layer(model)
    branch = StyleBranch(last.in_features, classes)
    attack = PGD(THREAT, steps=STEPS, keep="last")
    styled = PGD(THREAT, steps=STEPS, keep="last", loss=StyleLoss())
    runs = {
        "pgd-at": Run(AdversarialTraining(plain, attack), source, options.batch, options.device, options.precision),
        "causaladv-m": Run(CausalAdv(model, branch, styled), source, options.batch, options.device, options.precision),
    }
    found = summary(paired(runs, options.rounds), "pgd-at", len(source))
    return found | {"form": branch.form, "covariances_mib": branch.own.covariance.nbytes / 2**20}


def by_example(head: Tensor, covariance: Tensor, labels: Tensor, ratio: float) -> Tensor:
    """The correction (B, K), with V_j - V_y and S_y of every example."""
    differences = head[None] - head[labels][:, None]
    return 0.5 * ratio * (torch.bmm(differences, covariance[labels]) * differences).sum(dim=2)


def corrections(classes: int, options: argparse.Namespace) -> dict:
    """One step's evaluations by example, which begin again at every attack step, and by label."""
    dimension, device = 8 * options.width, options.device
    form = bounded_form(classes, dimension)
    generator = torch.Generator().manual_seed(0)
    head = torch.randn(classes, dimension, generator=generator).to(device)
    labels = torch.randint(0, classes, (options.batch,), generator=generator).to(device)
    factors = torch.randn(classes, 32, dimension, generator=generator).to(device) / dimension
    full = factors.mT @ factors
    ours = {"full": full, "low-rank": factors, "diagonal": factors.square().sum(dim=1)}[form]

    def table() -> None:
        for _ in range(1 + UPDATES):
            present, places = labels.unique(return_inverse=True)
            correction_table(head, ours, present, 0.5, form)[places]
        synchronise(device)

    def direct() -> None:
        for _ in range(1 + STEPS + UPDATES):
            by_example(head, full, labels, 0.5)
        synchronise(device)

    found = summary(paired({"by label": table, "by example": direct}, options.rounds), "by label", options.batch)
    rows = len(labels.unique())
    memory = {
        "by_label_mib": 4 * (rows * classes + classes * dimension) / 2**20,
        "by_example_mib": 4 * options.batch * (classes * dimension + dimension**2) / 2**20,
    }
    return found | memory | {"form": form}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--batches", type=int, default=1)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--classes", default="10,100,1000")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--precision", default="32-true")
    parser.add_argument("--out")
    options = parser.parse_args()
    pin(options.threads)
    logging.getLogger("deconfound").setLevel(logging.ERROR)
    found = {}
    for classes in map(int, options.classes.split(",")):
        found[f"step, K = {classes}"] = steps(classes, options)
        found[f"correction, K = {classes}"] = corrections(classes, options)
    found["setting"] = {"batch": options.batch, "width": options.width, "precision": options.precision}
    report("CausalAdv against PGD-AT", found, options.out)


if __name__ == "__main__":
    main()
