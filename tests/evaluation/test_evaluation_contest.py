"""Attacks on random models against the closed form: no accuracy that fresh draws of the optimal image do not have."""

from __future__ import annotations

import pytest
import torch
from scipy.stats import binom, binomtest, norm
from torch import nn

from deconfound.attacks import APGD, PGD
from deconfound.attacks.in_turn import InTurn
from deconfound.core.streams import Streams
from deconfound.core.threat import ThreatModel
from deconfound.evaluation.majority import Majority
from judged import Noisy, judged

COUNT, SIDE, SIGMA = 200, 4, 0.5
ATTACKS = {
    "pgd": lambda threat: PGD(threat, steps=20),
    "pgd-eot": lambda threat: PGD(threat, steps=10, draws=5),
    "apgd": lambda threat: APGD(threat, steps=20, draws=5),
    "apgd-t": lambda threat: APGD(threat, steps=20, draws=5, targets=1),
    "restarts": lambda threat: PGD(threat, steps=10, restarts=2),
    "in turn": lambda threat: InTurn((PGD(threat, steps=1, name="weak"), PGD(threat, steps=10)), "both"),
}


def line(margin, seed=0):
    """Logits (0, w x + b), noisy, and images in the middle of the box whose margin is ``margin`` for label 1."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(SIDE * SIDE, 2)).double()
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(SIDE * SIDE, generator=generator, dtype=torch.float64)
    with torch.no_grad():
        net[1].weight.zero_()
        net[1].weight[1] = weight / weight.abs().sum()  # eps in L-infinity moves the margin by eps
        net[1].bias.copy_(torch.tensor([0.0, 0.0]))
        images = 0.3 + 0.4 * torch.rand(COUNT, 1, SIDE, SIDE, generator=generator, dtype=torch.float64)
        far = net(images)[:, 1] - margin
    shift = net[1].weight[1] / net[1].weight[1].square().sum()
    return net, (images.flatten(1) - far[:, None] * shift).view_as(images).clamp(0, 1).detach()


def wrong(margin, draws=9):
    """Chance that the majority of draws errs: both logits are noisy."""
    return float(binom.sf(draws // 2, draws, norm.cdf(-margin / (SIGMA * 2**0.5))))


@pytest.mark.parametrize("kind", ATTACKS)
@pytest.mark.parametrize(("margin", "eps"), [(0.1, 0.1), (0.3, 0.1), (0.2, 0.3)])
def test_what_is_left_is_what_the_optimal_image_leaves(kind, margin, eps):
    """Of 1000 verdicts as many err as the closed form says, but for luck: p above 1e-5 each, 18 tests."""
    net, images = line(margin)
    threat, model = ThreatModel("linf", eps), Noisy(net, SIGMA)
    attack = ATTACKS[kind](threat)
    labels = torch.ones(COUNT, dtype=torch.int64)
    found = attack(model, images, labels, judge=Majority(model))
    streams = Streams(1, range(COUNT))
    missed = sum(int(Majority(model)(found, labels, streams.fold(seed)).sum()) for seed in range(5))
    optimal = wrong(margin - eps)
    assert binomtest(missed, 5 * COUNT, optimal).pvalue > 1e-5 or missed > 5 * COUNT * optimal - 20
    record = judged(model, images, labels, [attack], threat, judge=Majority(model))
    # What errs on the clean image errs at once, so less may be left, never more.
    left = round(record.robust_accuracy * 5 * COUNT)
    assert binomtest(left, 5 * COUNT, 1 - optimal, alternative="greater").pvalue > 1e-5
