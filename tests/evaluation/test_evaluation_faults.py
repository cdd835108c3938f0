"""Faults planted in trained networks are found and named; the networks themselves are not accused."""

from __future__ import annotations

import io
from functools import partial

import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

from deconfound.attacks import FGSM, PGD
from deconfound.attacks.square import Square
from deconfound.core.streams import Streams
from deconfound.core.threat import ThreatModel
from deconfound.core.types import Batch
from deconfound.evaluation import Probes, masking
from deconfound.evaluation.referee import Referee, Sample
from deconfound.functional.predictions import predicted
from deconfound.models import build, fit_state

IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
DIGITS = ThreatModel("linf", 0.1)
MNIST = ThreatModel("linf", 0.3)


@pytest.fixture(scope="session")
def digits():
    """Training images, then the last 360."""
    found = load_digits()
    images = torch.tensor(found.images, dtype=torch.float32).unsqueeze(1) / 16
    return images, torch.tensor(found.target, dtype=torch.int64)


@pytest.fixture(scope="session")
def robust(digits):
    """PGD adversarial training at 0.1 in L-infinity on the bundled digits."""
    images, labels = (part[:-360] for part in digits)
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(512, 64), nn.ReLU(),
        nn.Linear(64, 10),
    )  # fmt: skip
    optimiser, attack = torch.optim.Adam(model.parameters(), lr=3e-3), PGD(DIGITS, steps=5, keep="last")
    for epoch in range(8):
        order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(epoch))
        for places in order.split(128):
            found = attack(model, images[places], labels[places], Streams(epoch, places))
            optimiser.zero_grad()
            nn.functional.cross_entropy(model(found), labels[places]).backward()
            optimiser.step()
    return model.eval()


@pytest.fixture(scope="module")
def mnist(shared):
    return read(shared, "mnist", 100)


def read(shared, folder, count):
    parquet = pytest.importorskip("pyarrow.parquet")
    pillow = pytest.importorskip("PIL.Image")
    file = parquet.ParquetFile(shared / "data" / folder / "test-00000-of-00001.parquet")
    rows = next(file.iter_batches(batch_size=count)).to_pylist()
    decoded = [pillow.open(io.BytesIO(row["image"]["bytes"])) for row in rows]
    pixels = [torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8) for picture in decoded]
    shapes = [(picture.height, picture.width, len(picture.getbands())) for picture in decoded]
    images = [values.view(shape).permute(2, 0, 1) / 255 for values, shape in zip(pixels, shapes, strict=True)]
    return torch.stack(images), torch.tensor([row["label"] for row in rows])


def third_party(shared, file, name, channels, size, **more):
    model = build(name, classes=10, channels=channels, size=size, **more)
    fit_state(model, torch.load(shared / "weights" / file, weights_only=True, map_location="cpu"), file)
    return model.eval()


@pytest.fixture(scope="module")
def lenet(shared):
    return third_party(shared, "mnist_lenet5_adv.pt", "lenet5", 1, 28)


def scene(model, images, labels, threat, queries=100, transfer=()):
    places = torch.arange(len(labels))
    referee = Referee(model, None, 128)
    correct = predicted(referee.logits(images)) == labels
    probes = Probes(
        single_step=FGSM,
        iterative=partial(PGD, steps=20),
        black_box=partial(Square, queries=queries, rescale=True),
        transfer=transfer,
    )
    return masking.Scene(referee, threat, Sample(Batch(images, labels, places), Streams(0, places), correct), probes)


def examined(look):
    checks = {check.name: check for check in masking.examine(look)}
    return checks, masking.verdict(tuple(checks.values()))


def on_digits(model, digits, count=100, **more):
    images, labels = (part[-count:] for part in digits)
    return scene(model, images, labels, DIGITS, **more)


def failed(checks):
    return [name for name, check in checks.items() if check.passed is False]


class MadeUp(torch.autograd.Function):
    """Passes images on; on the way back every pixel's derivative is multiplied by a fixed random number."""

    @staticmethod
    def forward(ctx, images):
        return images.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient * torch.randn(gradient.shape[1:], generator=torch.Generator().manual_seed(1))


def quantised_activations(net):
    return lambda x: net[1:]((net[0](x) * 8).round() / 8)


# fault -> (what is planted, the check that must find it)
FAULTS = {
    "saturated softmax": (lambda net: lambda x: 1000 * net(x), "zero gradients"),
    "temperature 1/50": (lambda net: lambda x: net(x) / 0.02, "zero gradients"),
    "input in 8 levels": (lambda net: lambda x: net((x * 7).round() / 7), "zero gradients"),
    "input in 256 levels": (lambda net: lambda x: net((x * 255).round() / 255), "zero gradients"),
    "random noise": (lambda net: lambda x: net(x + 0.05 * torch.randn_like(x)), "identical calls agree"),
    "faint noise": (lambda net: lambda x: net(x + 0.002 * torch.randn_like(x)), "identical calls agree"),
    "fine ripple": (lambda net: lambda x: net(x + 0.01 * torch.sin(1000 * x)), "loss follows its gradient"),
    "coarse ripple": (lambda net: lambda x: net(x + 0.02 * torch.sin(300 * x)), "loss follows its gradient"),
    "made-up gradient": (lambda net: lambda x: net(MadeUp.apply(x)), "loss follows its gradient"),
    "probabilities": (lambda net: lambda x: net(x).softmax(1), "logits, not probabilities"),
}
MEASURED = {
    "zero gradients": "at most 10% may",
    "identical calls agree": "at most 0.0001 may",
    "loss follows its gradient": "fault below 0.01",
    "logits, not probabilities": "at most 50% may",
    "raw pixels expected": "at most +5 may",
}


def accused(checks, name):
    """The check fires, the verdict is unreliable, and its reason states the figure and the threshold."""
    found = masking.verdict(checks)
    by_name = {check.name: check for check in checks}
    assert by_name[name].passed is False, [check.note for check in checks]
    assert not found.reliable
    (reason,) = (reason for reason in found.reasons if reason.startswith(f"{name}: "))
    figure = by_name[name].measured
    shown = {"zero gradients": f"{figure:.1%}", "logits, not probabilities": f"{figure:.0%}"}
    shown |= {"identical calls agree": f"{figure:.2g}", "loss follows its gradient": f"p = {figure:.2g}"}
    assert shown.get(name, f"{100 * figure:+.0f} points") in reason
    assert MEASURED[name] in reason


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_in_a_robust_network_of_ours(fault, robust, digits):
    plant, name = FAULTS[fault]
    accused(masking.examine(on_digits(plant(robust), digits)), name)


CHECK = {
    "zero gradients": masking.gradients.zero_gradients,
    "loss follows its gradient": masking.gradients.loss_follows_gradient,
    "identical calls agree": masking.steadiness.output_changes,
    "logits, not probabilities": masking.inspecting.probabilities,
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_in_a_robust_network_of_others(fault, lenet, mnist):
    plant, name = FAULTS[fault]
    look = scene(plant(lenet), mnist[0][:40], mnist[1][:40], MNIST)
    accused((CHECK[name](look),), name)


def test_quantised_activations(robust, digits):
    accused(masking.examine(on_digits(quantised_activations(robust), digits)), "zero gradients")


def test_a_hidden_gradient_is_betrayed_by_queries_and_by_another_network(robust, digits):
    """Where everything breaks, a cut gradient leaves much that queries, and the network behind it, find."""
    images, labels = (part[-100:] for part in digits)
    cut = lambda x: robust((x * 255).round() / 255)  # noqa: E731
    look = scene(cut, images, labels, ThreatModel("linf", 0.3), transfer=[robust])
    checks, found = examined(look)
    assert {"zero gradients", "gradients not weaker than black box", "gradients not weaker than transfer"} <= set(
        failed(checks)
    )
    assert len(found.reasons) == len(failed(checks))


def test_a_staircase_that_traps_small_steps(robust, digits):
    """Its slope is negative on part of every step: the climb stops at the first edge, a jump would not."""

    def trap(x):
        return robust(x - 1.5 * torch.sin(32 * torch.pi * x) / (32 * torch.pi))

    images, labels = (part[-100:] for part in digits)
    checks, _ = examined(scene(trap, images, labels, DIGITS))
    honest, _ = examined(scene(robust, images, labels, DIGITS))
    assert not failed(honest)
    assert "everything breaks at full range" in failed(checks)


def test_a_network_that_expects_normalised_images(shared):
    images, labels = read(shared, "cifar10", 50)
    bare = third_party(shared, "cifar10_resnet20_clean.th", "resnet20", 3, 32)
    look = scene(bare, images, labels, ThreatModel("linf", "8/255"))
    accused((masking.inspecting.raw_pixels(look),), "raw pixels expected")
    inside = third_party(shared, "cifar10_resnet20_clean.th", "resnet20", 3, 32, **IMAGENET)
    assert masking.inspecting.raw_pixels(scene(inside, images, labels, ThreatModel("linf", "8/255"))).passed


@pytest.mark.parametrize("name", ["[0, 255] grey", "[-1, 1] grey", "MNIST"])
def test_a_robust_network_behind_a_normalisation(name, robust, digits):
    """The network was trained on normalised pixels, of which raw ones are a faint or a bright copy."""
    (mean,), (deviation,) = masking.inspecting.NORMALISATIONS[name]
    look = on_digits(lambda x: robust(x * deviation + mean), digits)
    check, right = masking.inspecting.raw_pixels(look), float(look.sample.correct.float().mean())
    assert check.passed is (right > 0.8), "raw pixels leave 10, 65 and 89 % right"
    assert f"{name} normalisation" in check.note


def test_a_robust_network_of_ours_is_believed(robust, digits):
    look = on_digits(robust, digits, queries=300)
    checks, found = examined(look)
    assert found.reliable, found.reasons
    assert look.sample.correct.float().mean() > 0.9
    assert 0.3 < look.after_iterative().float().mean() < 0.95
    assert checks["loss follows its gradient"].passed


@pytest.mark.parametrize(
    ("file", "name", "count", "eps", "queries"),
    [
        ("mnist_small_pgd.pth", "small", 100, 0.3, 200),
        ("mnist_lenet5_adv.pt", "lenet5", 40, 0.3, 40),
        ("mnist_lenet5_clean.pt", "lenet5", 50, 0.3, 20),
        ("mnist_lenet5_clean.pt", "lenet5", 25, 0.1, 20),
    ],
)
def test_networks_of_others_are_believed(shared, mnist, file, name, count, eps, queries):
    images, labels = (part[:count] for part in mnist)
    model = third_party(shared, file, name, 1, 28)
    source = third_party(shared, "mnist_small_pgd.pth", "small", 1, 28)
    look = scene(model, images, labels, ThreatModel("linf", eps), queries=queries, transfer=[source])
    _, found = examined(look)
    assert found.reliable, found.reasons


@pytest.mark.parametrize("eps", ["8/255", pytest.param("1/255", marks=pytest.mark.slow)])
def test_a_colour_network_of_others_is_believed(shared, eps):
    images, labels = read(shared, "cifar10", 25)
    model = third_party(shared, "cifar10_resnet20_clean.th", "resnet20", 3, 32, **IMAGENET)
    _, found = examined(scene(model, images, labels, ThreatModel("linf", eps), queries=10))
    assert found.reliable, found.reasons
