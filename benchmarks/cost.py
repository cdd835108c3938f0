"""What a training step of each method costs: measured points, a model of them, and its error.

    python benchmarks/cost.py [--threads 1] [--rounds 3] [--width 16] [--methods pgd-at,trades,..] [--quick]
                              [--precision 32-true] [--device cpu] [--out FILE]

The model. A network pass of one image of side S takes u S^2 seconds; a forward counts 1, a backward by the image 1, by
image and weights 2. A method takes P passes of each image and a step, P counted from its equations, so

    seconds(method, B, S) = u P B (S / 32)^2 + v,    MiB = m B (S / 32)^2

with u, v of one network on one machine by least squares over all points, and m of each method. Classes are measured
apart: CausalAdv keeps a covariance for each. Points beside the first vary one thing at a time. The peer of every ratio
is standard training in the same rounds.

``benchmarks/imagenet.py`` makes hours of a large training from this record and a published throughput.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from ciiv import synchronise
from deconfound.attacks import PGD, causal_inversion
from deconfound.core.protocols import Objective
from deconfound.core.threat import ThreatModel
from deconfound.data import MemoryImages
from deconfound.models import CausalFeatureMap, causal_net, feature_cut, probed_shape
from deconfound.objectives import AMRGMM, AdversarialTraining, Inoculated, Trades
from deconfound.recipes.loading import build_model
from deconfound.recipes.registry import build_objective
from deconfound.recipes.resolve import parse_changes, resolve
from deconfound.training import LoopSettings, SelectionSettings, fit
from timing import paired, pin, report, summary

STEPS, LOOPS, INVERSION = 10, 9, 10
ATTACK, TRAIN, CLEAN = 2 * STEPS, 3, 1
# Passes of one image in one step, from the equations; the comment says what is more than an attack and a training pass.
PASSES: dict[str, float] = {
    "standard": TRAIN,
    "mixup": TRAIN,
    "bpfc": 2 * TRAIN,  # the image and its upper bits
    "fgsm-rs": 2 + TRAIN,
    "pgd-at": ATTACK + TRAIN,
    "trades": ATTACK + CLEAN + 2 * TRAIN,  # the attack's target, and two training passes
    "mart": ATTACK + 2 * TRAIN,
    "pgd-at+awp": ATTACK + 2 * TRAIN,  # the proxy's step
    "causaladv-m": ATTACK + 2 * TRAIN + CLEAN,  # features of the clean image twice
    "causaladv-t": ATTACK + 2 * TRAIN + 2 * CLEAN,
    "ciiv": LOOPS * TRAIN,
    "ciiv+pgd-at": LOOPS * (ATTACK + TRAIN),
    "amr-gmm": ATTACK + 2 * CLEAN + 2,  # features of both images, then g and h of small maps
    "cafe/adv": ATTACK + TRAIN + 2 * INVERSION + 2 + 0.5 + TRAIN,  # inversion, reference, h, the causal branch
    "cafe/trades": ATTACK + CLEAN + 2 * TRAIN + 2 * INVERSION + 2 + 0.5 + TRAIN,
}
HOSTS = {"cafe/adv": AdversarialTraining, "cafe/trades": Trades}
THREAT = ThreatModel("linf", 8 / 255)
ATTACKER = PGD(THREAT, steps=STEPS, keep="last")


def images_for(count: int, classes: int, size: int) -> MemoryImages:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, generator=generator)
    labels = torch.randint(0, classes, (count,), generator=generator)
    return MemoryImages(pixels, labels, tuple(map(str, range(classes))), "random")


def objective_of(method: str, classes: int, size: int, width: int) -> Objective:
    """A method on a ResNet-18, as its recipe has it, with the same attack for all."""
    torch.manual_seed(0)
    if method in HOSTS:
        host = HOSTS[method](network("pgd-at", classes, size, width)[0], ATTACKER)
        return Inoculated(host, feature_map(classes, size, width), causal_inversion(4 / 255, INVERSION))
    if method == "amr-gmm":
        causal = feature_map(classes, size, width)
        return AMRGMM(causal, causal_net(shape_of(causal.network, size), role="g"), ATTACKER)
    return build_objective(*network(method, classes, size, width))


def feature_map(classes: int, size: int, width: int) -> CausalFeatureMap:
    frozen = network("pgd-at", classes, size, width)[0]
    return CausalFeatureMap(frozen, causal_net(shape_of(frozen, size)))


def shape_of(frozen: nn.Module, size: int) -> tuple[int, ...]:
    return probed_shape(feature_cut(frozen), torch.zeros(1, 3, size, size))


def network(method: str, classes: int, size: int, width: int):
    changes = ["model=resnet18", f"model_options.width={width}"]
    changes += ["steps=1"] if method == "fgsm-rs" else [f"steps={STEPS}", "step_size=null"]
    recipe = resolve({"recipe": method}, data="random", family="cifar", changes=parse_changes(changes))
    return build_model(recipe, classes, (3, size, size)), recipe


class Run:
    """One training step of a method in the library's loop."""

    def __init__(self, method: str, batch: int, size: int, classes: int, options: argparse.Namespace) -> None:
        self.objective = objective_of(method, classes, size, options.width)
        self.source, self.device = images_for(batch, classes, size), options.device
        accelerator = "cuda" if self.device == "cuda" else "cpu"
        self.fabric = Fabric(accelerator=accelerator, devices=1, precision=options.precision)
        self.settings = LoopSettings(
            epochs=1,
            batch_size=batch,
            lr=0.001,
            precision=options.precision,
            channels_last=True,
            selection=SelectionSettings(keep="last"),
        )

    def __call__(self) -> None:
        """One epoch of one step."""
        fit(self.objective, self.source, self.settings, self.fabric)
        synchronise(self.device)

    def memory(self) -> float:
        """MiB saved for the way back at once, weights apart; on an accelerator the peak of a step."""
        if self.device == "cuda":
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            self()
            return (torch.cuda.max_memory_allocated() - before) / 2**20
        return peak_saved(self)


def peak_saved(run: Callable[[], None]) -> float:
    """The most that lay saved for a way back at any time, in MiB."""
    alive: dict[int, int] = {}
    most = 0

    class Held:
        def __init__(self, tensor: Tensor) -> None:
            nonlocal most
            self.tensor, self.key = tensor, tensor.untyped_storage().data_ptr()
            alive[self.key] = max(alive.get(self.key, 0), tensor.untyped_storage().nbytes())
            most = max(most, sum(alive.values()))

        def __del__(self) -> None:
            alive.pop(self.key, None)

    with torch.autograd.graph.saved_tensors_hooks(Held, lambda held: held.tensor):
        run()
    return most / 2**20


def points(options: argparse.Namespace) -> list[tuple[int, int, int]]:
    """(batch, size, classes), one thing at a time around the first."""
    if options.quick:
        return [(8, 32, 10), (16, 32, 10)]
    return [(16, 32, 10), (8, 32, 10), (32, 32, 10), (16, 24, 10), (16, 48, 10), (16, 32, 100), (16, 32, 1000)]


def measured(options: argparse.Namespace) -> dict[str, dict]:
    """Seconds and memory of every method at every point; all methods of a point in the same rounds."""
    found = {}
    for batch, size, classes in points(options):
        runs = {name: Run(name, batch, size, classes, options) for name in options.methods.split(",")}
        figures = summary(paired(runs, options.rounds), "standard", batch)
        for name, run in runs.items():
            figures[name] |= {"mib": run.memory(), "passes": PASSES[name], "passes_to_standard": PASSES[name] / TRAIN}
        found[f"batch {batch}, {size} px, {classes} classes"] = figures
    return found


def fitted(found: dict[str, dict], options: argparse.Namespace) -> dict:
    """U and v by least squares on relative errors, and how far the model is off."""
    rows, seconds = [], []
    for (batch, size, classes), figures in zip(points(options), found.values(), strict=True):
        for name, one in figures.items() if classes == points(options)[0][2] else ():
            rows.append([PASSES[name] * batch * (size / 32) ** 2, 1.0])
            seconds.append(one["median_seconds"])
    a, t = torch.tensor(rows, dtype=torch.float64), torch.tensor(seconds, dtype=torch.float64)
    u, v = torch.linalg.lstsq(a / t[:, None], torch.ones_like(t)[:, None]).solution.flatten().tolist()
    off = ((a @ torch.tensor([u, v], dtype=torch.float64)) / t - 1).abs()
    return {
        "seconds_per_pass_of_32_px": u,
        "seconds_per_step": v,
        "median_relative_error": float(off.median()),
        "largest_relative_error": float(off.max()),
        "points": len(t),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--methods", default=",".join(PASSES))
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--precision", default="32-true")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--out")
    options = parser.parse_args()
    pin(options.threads)
    found = measured(options)
    fit_ = fitted(found, options)
    setting = {"width": options.width, "precision": options.precision, "attack_steps": STEPS, "device": options.device}
    report("Cost of a training step", {"points": found, "model": fit_, "setting": setting}, options.out)


if __name__ == "__main__":
    main()
