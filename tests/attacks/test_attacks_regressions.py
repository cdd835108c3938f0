"""Faults that attacks once had, each with what shows it."""

from __future__ import annotations

import pytest
import torch

from deconfound import models
from deconfound.attacks import APGD, Square
from deconfound.core.streams import Streams
from deconfound.core.threat import ThreatModel
from deconfound.store import read_weights

THREAT = ThreatModel("linf", 0.1)


@pytest.fixture(scope="module")
def lenet(shared):
    from deconfound.data import load

    model = models.build("lenet5", classes=10, channels=1, size=28)
    models.fit_state(model, read_weights(str(shared / "weights" / "mnist_lenet5_adv.pt"))[0], "weights")
    test = load(str(shared / "data" / "mnist"), parts=("test",)).test
    (batch,) = test.batches([torch.arange(60)])
    return model.eval().requires_grad_(False), batch.images, batch.labels


def standing(model, images, labels):
    with torch.no_grad():
        return int((model(images).argmax(1) == labels).sum())


def test_apgd_in_l1_at_a_fixed_radius_is_as_strong_as_the_authors_code(lenet):
    # from a dense start 50 points stood where the authors' code left 40
    from pyautoattack.autopgd_base import APGDAttack

    model, images, labels = lenet
    ours, theirs = [], []
    for seed in (0, 1):
        found = APGD(ThreatModel("l1", 10.0), steps=30)(model, images, labels, Streams(seed, range(60)))
        ours.append(standing(model, found, labels))
        reference = APGDAttack(model, n_iter=30, norm="L1", eps=10.0, seed=seed, device="cpu")
        with torch.random.fork_rng():
            theirs.append(standing(model, reference.perturb(images, labels), labels))
    assert sum(ours) <= sum(theirs) + 6, (ours, theirs)


def test_apgd_in_l1_at_a_fixed_radius_starts_with_few_pixels_changed():
    seen = []

    class Spy(torch.nn.Module):
        def forward(self, images):
            seen.append(images.detach().clone())
            return torch.stack([images.flatten(1).sum(1) + 1e3, images.flatten(1)[:, 0]], dim=1)

    images = torch.rand(4, 1, 20, 20, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    threat = ThreatModel("l1", 10.0)
    APGD(threat, steps=1)(Spy(), images, torch.zeros(4, dtype=torch.int64))
    start = seen[1]
    assert threat.contains(start, images).all()
    assert (start != images).flatten(1).sum(1).max() < 100
    assert (threat.distance(start, images) > 9.99).all()


class Flipping(torch.nn.Module):
    """Calls itself on the mirrored image and on the image, and answers with a mixture that is often another class."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(4)
        self.inner = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(36, 3)).double()

    def forward(self, images, plain=False):
        if plain:
            return self.inner(images)
        return 3 * self(images.flip(3), True) - 2 * self(images, True)


@pytest.mark.parametrize(
    "attack", [APGD(ThreatModel("linf", 0.1), steps=5), Square(ThreatModel("linf", 0.1), queries=60)]
)
def test_a_model_that_calls_itself_on_the_same_images_is_judged_by_its_own_answer(attack):
    model = Flipping()
    images = torch.rand(60, 1, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        labels = model(images).argmax(1)
        found = attack(model, images, labels)
        changed = (found != images).flatten(1).any(1)
        assert torch.equal(model(found).argmax(1) != labels, changed)
        assert changed.any()


def test_a_model_with_a_hook_that_scales_its_input_is_forwarded_once_a_step():
    calls = []

    class Spy(torch.nn.Module):
        def forward(self, images):
            calls.append(len(images))
            return torch.stack([images.flatten(1).sum(1) + 1e3, images.flatten(1)[:, 0]], dim=1)

    model = Spy()
    model.register_forward_pre_hook(lambda module, args: (args[0] * 2 - 1,))
    images = torch.rand(4, 1, 5, 5)
    APGD(THREAT, steps=6)(model, images, torch.zeros(4, dtype=torch.int64))
    assert len(calls) == 8  # the clean images, 6 gradients, the last iterate
