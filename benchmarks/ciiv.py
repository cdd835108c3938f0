"""What CiiV costs: a training step with all views in one batch, against its views one after the other.

    python benchmarks/ciiv.py [--threads 1] [--rounds 5] [--batch 16] [--model resnet18] [--width 64] [--size 32]
                              [--device cpu] [--out FILE]

The step: nine loops of three inner samples, cross entropy of every view, the regulariser, backward, SGD. The peer runs
it as the authors do, in the same process: 27 passes of the sampler, the mask of each drawn on the processor, and nine
passes of the network, in float32. Goals, as ratios of the same round: 1.1 in float32 and 0.5 in bfloat16 on a
processor, 0.4 on an accelerator.

Memory: on a processor what is saved for the way back, on an accelerator the peak of what is allocated. The sampler's
own numbers stay within ``sampling.memory`` (on a processor within its cache), whatever the batch.
"""

from __future__ import annotations

import argparse
from contextlib import nullcontext

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deconfound import models
from deconfound.core.streams import Streams
from deconfound.core.types import Batch, Progress
from deconfound.functional.sampling import acceptance, distances, grid_centres
from deconfound.models.sampler import Sampling
from deconfound.objectives import CiiVTraining
from timing import paired, pin, report, summary

LOOPS, SAMPLES, AMPLITUDE = 9, 3, 0.9
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616)
WEIGHT = 0.1


def network(options: argparse.Namespace, **levels) -> nn.Module:
    torch.manual_seed(0)
    width = {"width": options.width} if "width" in models.options_of(options.model) else {}
    return models.build(options.model, classes=10, channels=3, size=options.size, **width, **levels)


class Sequential:
    """One view after the other: 27 sampler passes, masks drawn on the processor, nine network passes."""

    def __init__(self, options: argparse.Namespace, batch: Batch) -> None:
        self.net = network(options).to(options.device).train()
        self.optimizer = torch.optim.SGD(self.net.parameters(), lr=0.01, momentum=0.9)
        self.batch, self.device = batch, options.device
        self.mean, self.std = (torch.tensor(v, device=options.device).view(3, 1, 1) for v in (MEAN, STD))
        size = (options.size, options.size)
        self.q = acceptance(distances(grid_centres(*size), *size))

    def sample(self, x: Tensor, loop: int) -> tuple[Tensor, Tensor]:
        """A view and its exposure."""
        view, seen = torch.zeros_like(x), torch.zeros((), device=x.device)
        for _ in range(SAMPLES):
            r = F.relu(x + AMPLITUDE * (torch.rand_like(x) * 2 - 1))
            mask = (self.q[loop] + torch.rand(self.q.shape[1:]) > 0.9).float().to(self.device)
            view = view + mask * r / (r + 1e-5) / SAMPLES
            seen = seen + mask.mean() / SAMPLES
        return view, seen

    def loss(self) -> Tensor:
        """Cross entropy and regulariser, view by view."""
        x = (self.batch.images - self.mean) / self.std
        features, exposure, crossed = [], [], 0.0
        for loop in range(LOOPS):
            view, seen = self.sample(x, loop)
            found = self.net.features(view)
            crossed = crossed + F.cross_entropy(self.net.head(found), self.batch.labels) / LOOPS
            features.append(found)
            exposure.append(seen)
        total = crossed
        for loop in range(LOOPS):
            mean_f = sum(f for other, f in enumerate(features) if other != loop) / (LOOPS - 1)
            mean_z = sum(z for other, z in enumerate(exposure) if other != loop) / (LOOPS - 1)
            apart = F.smooth_l1_loss(features[loop] * mean_z, mean_f * exposure[loop], reduction="none")
            total = total + WEIGHT * apart.sum(dim=1).mean() / LOOPS
        return total

    def __call__(self) -> None:
        """One training step."""
        self.optimizer.zero_grad(set_to_none=True)
        self.loss().backward()
        self.optimizer.step()
        synchronise(self.device)


class Batched:
    """The library's objective and network."""

    def __init__(self, options: argparse.Namespace, batch: Batch, precision: str, **settings) -> None:
        self.net = network(options)
        self.model = models.CiiV(self.net, Sampling(**settings), channels=3, size=options.size, mean=MEAN, std=STD).to(
            options.device, memory_format=torch.channels_last
        )
        self.model.train()
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.01, momentum=0.9)
        self.objective, self.batch, self.device = CiiVTraining(self.model), batch, options.device
        self.precision, self.number = precision, 0

    def loss(self) -> Tensor:
        """The objective's, on fresh streams."""
        self.number += 1
        streams = Streams(0, self.batch.index).fold(self.number)
        half = torch.autocast(self.device, torch.bfloat16) if self.precision == "bf16-mixed" else nullcontext()
        with half:
            (step,) = self.objective.steps(self.batch, Progress(epoch=0, epochs=110), streams)
            return step.loss().total

    def __call__(self) -> None:
        """One training step."""
        self.optimizer.zero_grad(set_to_none=True)
        self.loss().backward()
        self.optimizer.step()
        synchronise(self.device)

    def sampling(self) -> None:
        """All views, without the network."""
        self.model.sampler(self.model.sampled_input(self.batch.images), Streams(0, self.batch.index))
        synchronise(self.device)


def synchronise(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def memory(contestant: Sequential | Batched) -> float:
    """MiB saved for the way back; on an accelerator the peak of a step above what was there before."""
    if contestant.device == "cuda":
        contestant()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        contestant()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    held = {parameter.untyped_storage().data_ptr() for parameter in contestant.net.parameters()}
    sizes: dict[int, int] = {}
    alive: list[Tensor] = []  # so that no address is used twice

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in held:
            sizes[storage.data_ptr()] = storage.nbytes()
            alive.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        contestant.loss()
    return sum(sizes.values()) / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--model", default="resnet18")
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--out")
    options = parser.parse_args()
    pin(options.threads)
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(options.batch, 3, options.size, options.size, generator=generator)
    labels = torch.randint(0, 10, (options.batch,), generator=generator)
    batch = Batch(*(t.to(options.device) for t in (images, labels, torch.arange(options.batch))))
    contestants = {
        "sequential": Sequential(options, batch),
        "batched, float32": Batched(options, batch, "32-true"),
        "batched, bfloat16": Batched(options, batch, "bf16-mixed"),
        "by centre, float32": Batched(options, batch, "32-true", per_centre_norm=True),
    }
    found = summary(paired(contestants, options.rounds), "sequential", options.batch)
    for name, contestant in contestants.items():
        found[name]["memory_mib"] = memory(contestant)
    sampler = contestants["batched, float32"].sampling
    found["sampling alone"] = summary(paired({"all views": sampler}, options.rounds), "all views", options.batch)
    settings = {key: getattr(options, key) for key in ("batch", "model", "width", "size", "device", "threads")}
    report("CiiV, a training step", found | {"setting": settings}, options.out)


if __name__ == "__main__":
    main()
