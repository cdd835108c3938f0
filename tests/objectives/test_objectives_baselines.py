"""Mixup and BPFC against the same step written by hand."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from deconfound.core.streams import Streams
from deconfound.core.types import Progress
from deconfound.errors import InputError
from deconfound.functional.mixing import mix
from deconfound.functional.quantisation import noise_scale, quantise
from deconfound.objectives import BPFC, Mixup
from deconfound.recipes.loading import build_model
from deconfound.recipes.registry import build_objective
from deconfound.recipes.resolve import names, read_spec, resolve
from toys import ToySource, tiny_net

PROGRESS = Progress(epoch=0, epochs=4)


def setting(count=12):
    batch = next(ToySource(count).batches([torch.arange(count)]))
    return batch, Streams(5, batch.index)


def step_of(objective, progress=PROGRESS):
    batch, streams = setting()
    (step,) = objective.steps(batch, progress, streams)
    assert step.player == "model"
    return step


def gradients(model, total):
    model.zero_grad()
    total.backward()
    return [parameter.grad.clone() for parameter in model.parameters()]


@pytest.mark.parametrize("alpha", [0.3, 1.0])
@pytest.mark.parametrize("norm", [False, True])
def test_mixup_is_cross_entropy_with_the_mixed_label(alpha, norm):
    model = tiny_net(norm=norm)
    reference, (batch, streams) = copy.deepcopy(model), setting()
    loss = step_of(Mixup(model, alpha)).loss()
    images, partner, weight = mix(batch.images, streams.fold("mixup"), alpha)
    soft = weight[:, None] * F.one_hot(batch.labels, 4) + (1 - weight)[:, None] * F.one_hot(batch.labels[partner], 4)
    logits = reference(images)
    expected = F.cross_entropy(logits, soft)
    torch.testing.assert_close(loss.total, expected)
    for ours, theirs in zip(gradients(model, loss.total), gradients(reference, expected), strict=True):
        torch.testing.assert_close(ours, theirs)
    assert loss.logits is None  # mixed images have no one label
    torch.testing.assert_close(loss.parts["accuracy"], soft[range(12), logits.argmax(1)].mean())


def test_mixup_pairs_anew_in_every_batch():
    batch, streams = setting()
    objective = Mixup(tiny_net())
    totals = {step.loss().total.item() for k in range(4) for step in objective.steps(batch, PROGRESS, streams.fold(k))}
    assert len(totals) == 4


@pytest.mark.parametrize("bits", [2, 5, 7])
@pytest.mark.parametrize("norm", [False, True])
def test_bpfc_is_cross_entropy_plus_the_squared_distance_of_logits(bits, norm):
    model = tiny_net(norm=norm)
    reference, (batch, streams) = copy.deepcopy(model), setting()
    loss = step_of(BPFC(model, bits, weight=0.5), Progress(epoch=2, epochs=4)).loss()  # half: two stairs
    uniform = streams.fold("quantisation").uniform((1, 8, 8))
    noise = (2 * uniform - 1) * noise_scale(bits)
    z, coarse = reference(batch.images), reference(quantise(batch.images, noise, bits))
    distance = ((z - coarse) ** 2).sum() / 12
    expected = F.cross_entropy(z, batch.labels) + 0.5 * 81 * distance
    torch.testing.assert_close(loss.total, expected)
    for ours, theirs in zip(gradients(model, loss.total), gradients(reference, expected), strict=True):
        torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(loss.parts["consistency"], distance.detach())
    assert torch.equal(loss.logits, z.detach())
    if norm:  # both images passed in train mode, the clean ones first
        assert torch.equal(model[1].running_mean, reference[1].running_mean)
        assert model[1].num_batches_tracked.item() == 2


def test_the_weight_climbs_at_the_authors_epochs_and_at_shares_of_other_trainings():
    def stairs(epochs, **changes):
        objective = BPFC(tiny_net(), **changes)
        weights = [objective.weight_at(Progress(epoch=e, epochs=epochs, step=3, steps=4)) for e in range(epochs)]
        return [(e, w) for e, w in enumerate(weights) if e == 0 or w != weights[e - 1]]

    assert stairs(100) == [(0, 1), (25, 9), (50, 81), (75, 729)]
    assert stairs(10) == [(0, 1), (3, 9), (5, 81), (8, 729)]
    assert stairs(1) == [(0, 1)]
    assert stairs(100, weight=2.0, growth=3.0, milestones=(0.55,)) == [(0, 2), (55, 6)]
    assert stairs(20, milestones=()) == [(0, 1)]


def test_a_network_that_reads_only_upper_bits_pays_nothing():
    class Upper(nn.Module):
        def __init__(self):
            super().__init__()
            self.last = nn.Linear(64, 4)

        def forward(self, images):
            return self.last((images * 255 / 128).floor().flatten(1))

    images = torch.tensor([0.2, 0.8]).repeat(12, 32).view(12, 1, 8, 8)  # far enough from the edge for any noise
    batch, streams = setting()
    batch = type(batch)(images, batch.labels, batch.index)
    (step,) = BPFC(Upper(), bits=6).steps(batch, PROGRESS, streams)
    assert step.loss().parts["consistency"] == 0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda m: Mixup(m, 0), "alpha: got 0"),
        (lambda m: BPFC(m, 8), "bits: got 8"),
        (lambda m: BPFC(m, weight=-1), "weight: got -1; expected a number of at least 0"),
        (lambda m: BPFC(m, growth=0), "growth: got 0; expected a number above 0"),
        (lambda m: BPFC(m, milestones=(0.5, 0.25)), r"milestones: got \(0.5, 0.25\); expected rising shares"),
        (lambda m: BPFC(m, milestones=(1.0,)), r"milestones: got \(1.0,\)"),
    ],
)
def test_bad_input(make, message):
    with pytest.raises(InputError, match=message):
        make(tiny_net())


def built(name, family, **changes):
    recipe = resolve(read_spec(name), data=family, family=family, changes=changes)
    return build_objective(build_model(recipe, 3, (1, 16, 16)), recipe)


@pytest.mark.parametrize(("family", "bits"), [("cifar", 5), ("fashion", 6), ("mnist", 7), ("digits", 6), ("shapes", 5)])
def test_the_recipe_drops_the_authors_bits(family, bits):
    small = {"model": "small", "normalisation": None}
    objective = built("bpfc", family, **small)
    assert (objective.bits, objective.weight, objective.growth) == (bits, 1.0, 9.0)
    assert objective.milestones == (0.25, 0.5, 0.75)
    assert built("bpfc", family, **small, objective={"bits": 3, "milestones": [0.5]}).milestones == (0.5,)


def test_recipes_say_what_they_cannot_take():
    assert {"bpfc", "mixup"} <= set(names())
    assert built("mixup", "digits", objective={"alpha": 0.2}).alpha == 0.2
    for changes, message in (
        ({"bits": 8}, "objective.bits: got 8; expected at most 7"),
        ({"milestones": [1.5]}, r"objective.milestones.*got 1.5; expected a number below 1"),
        ({"alpha": 1}, "objective.alpha"),
    ):
        with pytest.raises(InputError, match=message):
            built("bpfc", "digits", objective=changes)
    with pytest.raises(InputError, match=r"objective\.alpha: got 0; expected a number above 0"):
        built("mixup", "digits", objective={"alpha": 0})
