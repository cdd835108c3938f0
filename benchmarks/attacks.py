"""Attacks and suites against other libraries: strength, seconds, passes, memory, share of the processor's peak.

python benchmarks/attacks.py PART... --weights FOLDER --mnist FOLDER [--run RUN --cifar FOLDER] [--threads 2]
    [--rounds 3] [--share 0.1] [--out FILE]

PART is any of: strength, agreement, mnist, resnet, apgd, pgd, peak. The last four need a CIFAR-10 ResNet-18, such as
``deconfound train fgsm-rs --data CIFAR10`` leaves it. ``--share`` shortens every budget of ``mnist`` and ``resnet``,
for ratios of time that need no hour. ``--kept FILE`` remembers what pyautoattack left standing.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from deconfound.attacks import APGD, PGD
from deconfound.attacks.suites import suite
from deconfound.core.threat import ThreatModel
from deconfound.evaluation.meter import Meter
from deconfound.models.fast import FastSurrogate, fast_surrogate
from deconfound.recipes.loading import load as load_run
from peers import STAGES, autoattack, pgd_peers, right
from suites_in_turn import Stages, audited, both, by_suite, first, in_turn, shortened
from third_party import mnist_nets
from timing import paired, pin, report, summary

BATCH = 64


def strength(options: argparse.Namespace) -> dict:
    """Survivors after every stage: ours once, theirs with three seeds, and the union of theirs."""
    images, labels = first(options.mnist, options.n)
    found, ours_alone, pooled, kept = {}, 0, 0, Kept(options.kept)
    for name, model in mnist_nets(options.weights).items():
        threat, made = ThreatModel("linf", 0.3), fast_surrogate(model, images, labels)
        start = time.process_time()
        ours = in_turn(list(suite("standard", threat).attacks), made.classifier, model, images, labels)
        seconds = time.process_time() - start
        theirs, cost = {}, []
        for seed in options.seeds:
            start = time.process_time()
            theirs[seed] = their_stages(model, images, labels, seed, kept, name)
            cost.append(time.process_time() - start)
        union = set.intersection(*(set(stages["square"]) for stages in theirs.values()))
        standing = set(ours["square-5000"])
        ours_alone, pooled = ours_alone + len(standing - union), pooled + options.n
        found[name] = {
            "n": options.n,
            "surrogate": made.rung,
            "ours": {stage: len(left) for stage, left in ours.items()},
            "theirs": {seed: {stage: len(left) for stage, left in stages.items()} for seed, stages in theirs.items()},
            "union_survivors": len(union),
            "survive_us_and_not_the_union": sorted(standing - union),
            "survive_the_union_and_not_us": sorted(union - standing),
            "points_above_union": 100 * (len(standing) - len(union)) / options.n,
            "cpu_seconds": {"ours": seconds, "theirs": cost},
        }
    found["pooled_share_that_survives_us_alone"] = ours_alone / pooled
    return found


def their_stages(model: nn.Module, images: Tensor, labels: Tensor, seed: int, kept: Kept, name: str) -> Stages:
    """What one seed of pyautoattack leaves standing after each stage, from the file where that holds it."""
    key = f"{name}/{len(images)}/{seed}"
    if key in kept.found:
        return kept.found[key]
    left = right(model, images, labels).nonzero().flatten()
    after = {"clean": left.tolist()}
    for stage in STAGES:
        found = autoattack(0.3, seed, stages=[stage])(model, images[left], labels[left])
        left = left[right(model, found, labels[left])]
        after[stage] = left.tolist()
    kept.add(key, after)
    return after


class Kept:
    """Survivors of pyautoattack by net, number of images and seed, in a file if one is named."""

    def __init__(self, file: str | None) -> None:
        self.file = Path(file) if file else None
        self.found = json.loads(self.file.read_text()) if self.file and self.file.exists() else {}

    def add(self, key: str, stages: Stages) -> None:
        """One seed's stages, written at once."""
        self.found[key] = stages
        if self.file:
            self.file.write_text(json.dumps(self.found))


def suites_against_autoattack(
    model: nn.Module, images: Tensor, labels: Tensor, eps: float, options: argparse.Namespace
) -> dict:
    """Seconds of the standard suite at ``share`` of every budget, ours in bfloat16 and in float32 against theirs."""
    threat = ThreatModel("linf", eps)
    attacks = shortened(threat, options.share)
    doubles = both(model, images, labels)
    left: dict[str, int] = {}

    def ours(made: FastSurrogate, name: str) -> Callable[[], None]:
        def run() -> None:
            left[name] = len(in_turn(attacks, made.classifier, model, images, labels)[attacks[-1].name])

        return run

    def theirs() -> None:
        found = autoattack(eps, 0, options.share)(model, images, labels)
        left["pyautoattack"] = int(right(model, found, labels).sum())

    def fast() -> None:
        made = doubles["auto"]
        left["fast"] = round(len(images) * audited(attacks, made.classifier, model, images, labels).robust_accuracy)

    contestants = {name: ours(made, name) for name, made in doubles.items()}
    contestants |= {"fast": fast, "pyautoattack": theirs}
    contestants = {name: run for name, run in contestants.items() if name in {*options.only, "pyautoattack"}}
    seconds = paired(contestants, options.rounds, warm=False)
    return {
        "n": len(images),
        "share_of_budgets": options.share,
        "surrogates": {name: made.rung for name, made in doubles.items()},
        "survivors": left,
        "seconds": seconds,
        "summary": faster(seconds, "pyautoattack"),
        "passes": {
            name: counted(attacks, made, model, images, labels) for name, made in doubles.items() if name in contestants
        },
        "peak_mebibytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def faster(seconds: dict[str, list[float]], peer: str) -> dict[str, float]:
    """Median over rounds of how many times faster than the peer each one is."""
    return {
        name: statistics.median(b / a for a, b in zip(values, seconds[peer], strict=True))
        for name, values in seconds.items()
    }


def counted(attacks: list, made: FastSurrogate, model: nn.Module, images: Tensor, labels: Tensor) -> dict[str, int]:
    """Images forwarded and images through which a gradient went, surrogate and judge together."""
    meter = Meter()
    with meter.counting(made.classifier), meter.counting(model):
        in_turn(attacks, made.classifier, model, images, labels)
    cost = meter.read()
    return {"forwards": cost.forwards, "backwards": cost.backwards}


def mnist(options: argparse.Namespace) -> dict:
    images, labels = first(options.mnist, 200)
    model = mnist_nets(options.weights)["mnist_lenet5_adv"]
    return suites_against_autoattack(model, images, labels, 0.3, options)


def survivors(options: argparse.Namespace) -> tuple[nn.Module, Tensor, Tensor]:
    """The ResNet-18 and the first of its test images that withstand a PGD-20 (the benchmark's subject, no result)."""
    model = load_run(options.run)
    images, labels = first(options.cifar, 400)
    found = PGD(ThreatModel("linf", "8/255"), steps=20)(model, images, labels)
    left = right(model, found, labels).nonzero().flatten()[: options.survivors]
    return model, images[left], labels[left]


def resnet(options: argparse.Namespace) -> dict:
    model, images, labels = survivors(options)
    return suites_against_autoattack(model, images, labels, 8 / 255, options)


def apgd(options: argparse.Namespace) -> dict:
    """APGD-CE alone, 100 steps."""
    model, images, labels = survivors(options)
    threat = ThreatModel("linf", "8/255")
    contestants = {
        name: lambda made=made: APGD(threat)(made.classifier, images, labels, judge=model)
        for name, made in both(model, images, labels).items()
    }
    theirs = autoattack(8 / 255, 0, stages=["apgd-ce"])
    contestants["pyautoattack"] = lambda: theirs(model, images, labels)
    seconds = paired(contestants, options.rounds)
    return {"n": len(images), "seconds": seconds, "faster": faster(seconds, "pyautoattack")}


def pgd(options: argparse.Namespace) -> dict:
    """PGD-20 from a random start, every step on every point (``keep="last"``), as the others do it."""
    model, (images, labels) = load_run(options.run), first(options.cifar, BATCH)
    eps, step = 8 / 255, 2 / 255
    attack = PGD(ThreatModel("linf", eps), steps=20, step_size=step, keep="last")
    contestants = {
        name: lambda made=made: attack(made.classifier, images, labels)
        for name, made in both(model, images, labels).items()
    }
    contestants["plain model"] = lambda: attack(model, images, labels)
    peers = pgd_peers(eps, 20, step)
    contestants |= {name: lambda run=run: run(model, images, labels) for name, run in peers.items()}
    seconds = paired(contestants, options.rounds)
    return {
        "n": len(images),
        "seconds": seconds,
        "auto_times_faster_than": {name: 1 / faster(seconds, "auto")[name] for name in seconds},
        "same_as_torchattacks": parity(model, images, labels),
        "summary": summary(seconds, "auto", len(images)),
    }


def parity(model: nn.Module, images: Tensor, labels: Tensor) -> float | None:
    """Largest difference between our last iterate and torchattacks', both from the clean image."""
    try:
        import torchattacks
    except ImportError:
        return None
    theirs = torchattacks.PGD(model, eps=8 / 255, alpha=2 / 255, steps=10, random_start=False)(images, labels)
    ours = PGD(ThreatModel("linf", "8/255"), steps=10, step_size="2/255", start="none", keep="last")
    return float((ours(model, images, labels) - theirs).abs().max())


def peak(options: argparse.Namespace) -> dict:
    """Multiply-adds per second of an attack step against those of a large matrix product in the same precision."""
    from deconfound.models.footprint import multiply_adds

    model, (images, labels) = load_run(options.run), first(options.cifar, BATCH)
    made, size = fast_surrogate(model, images, labels), 2048
    square = {dtype: torch.randn(size, size).to(dtype) for dtype in (torch.float32, torch.bfloat16)}
    with torch.no_grad():
        seconds = paired({str(dtype): lambda m=m: m @ m for dtype, m in square.items()}, 9)
    products = {name: size**3 / statistics.median(values) for name, values in seconds.items()}
    attack = PGD(ThreatModel("linf", "8/255"), steps=5, keep="last")
    step = paired(
        {"bf16": lambda: attack(made.classifier, images, labels), "32": lambda: attack(model, images, labels)}, 5
    )
    work = 2 * multiply_adds(model, images) * len(images) * 5
    reached = {name: work / statistics.median(values) for name, values in step.items()}
    return {
        "multiply_adds_per_image_and_step": 2 * multiply_adds(model, images),
        "matrix_product_multiply_adds_per_second": products,
        "attack_step_multiply_adds_per_second": reached,
        "share_of_peak": {
            "bf16": reached["bf16"] / products["torch.bfloat16"],
            "32": reached["32"] / products["torch.float32"],
        },
    }


def agreement(options: argparse.Namespace) -> dict:
    """Robust accuracy of ``fast`` (with its default audit) and of ``standard`` on the MNIST nets, n images each."""
    images, labels = first(options.mnist, options.n)
    found = {}
    for name, model in mnist_nets(options.weights).items():
        threat, made = ThreatModel("linf", 0.3), fast_surrogate(model, images, labels)
        stages = in_turn(list(suite("standard", threat).attacks), made.classifier, model, images, labels)
        standard = len(stages["square-5000"]) / options.n
        record = by_suite(suite("fast", threat), made.classifier, model, images, labels)
        found[name] = {
            "n": options.n,
            "stages": {stage: len(left) for stage, left in stages.items()},
            "audit": record.audit.model_dump(mode="json"),
            "accuracy": {"standard": standard, "fast": record.robust_accuracy},
            "points_apart": 100 * (record.robust_accuracy - standard),
        }
    return found


PARTS = {f.__name__: f for f in (strength, agreement, mnist, resnet, apgd, pgd, peak)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="+", choices=list(PARTS))
    for name in ("weights", "mnist", "run", "cifar", "kept", "out"):
        parser.add_argument(f"--{name}")
    parser.add_argument("--n", type=int, default=400)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--survivors", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--share", type=float, default=1.0)
    parser.add_argument("--only", nargs="+", default=["auto", "32", "fast"], help="contestants of mnist and resnet")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    pin(options.threads)
    found = {}
    for part in options.parts:
        found[part] = PARTS[part](options)
        report("attacks", {"threads": options.threads, **found}, options.out)


if __name__ == "__main__":
    main()
