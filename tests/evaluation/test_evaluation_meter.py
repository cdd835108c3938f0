"""What attacks cost, in closed form: K steps on N images are K N passes forward and K N back, whatever they climb."""

from __future__ import annotations

import copy
from functools import partial

import pytest
import torch
from torch import nn

from deconfound.attacks import FGSM, PGD
from deconfound.attacks.declared import Declared
from deconfound.core.threat import ThreatModel
from deconfound.evaluation.scene import Probes
from deconfound.models.ciiv import CiiV
from deconfound.models.sampler import Sampling
from judged import judged
from toys import SplitNet

THREAT = ThreatModel("linf", 0.02)
N, K, R, LONG = 40, 3, 5, 600


class Sure(nn.Module):
    """A network in two parts that no attack moves from the first class."""

    def __init__(self):
        super().__init__()
        self.last = nn.Linear(64, 2)
        with torch.no_grad():
            self.last.bias.copy_(torch.tensor([9.0, 0.0]))

    def features(self, images):
        return images.flatten(1)

    def head(self, features):
        return self.last(features)

    def forward(self, images):
        return self.head(self.features(images))


class Around(nn.Module):
    """Calls a function with the images; the network is a part of it."""

    def __init__(self, model, call):
        super().__init__()
        self.model, self.call = model, call

    def forward(self, images):
        return self.call(self.model, images)


class Drawn(Around):
    """The same as a random classifier."""

    def draw(self, images, streams, draws):
        return torch.stack([self(images)] * draws)


def by_parts(model, images):
    return model.head(model.features(images))


def itself(model, images):
    return model(images)


def cost(model, *surrogates, attack=None, column=False, climbed=None, judge=None):
    """Passes forward and back of an attack on each surrogate (None for the model) that leaves all images standing."""
    images, labels = torch.rand(N, 1, 8, 8), torch.zeros(N, dtype=torch.int64)
    attack = attack or PGD(THREAT, steps=K)
    made = [Declared(attack, model=model, surrogate=one, name=str(place)) for place, one in enumerate(surrogates)]
    columns = [("own", made.pop())] if column else []
    record = judged(model, images, labels, made, THREAT, batch_size=7, columns=columns, surrogate=climbed, judge=judge)
    found = [(result.forwards, result.backwards) for result in record.attacks]
    assert {(result.attacked, result.survivors) for result in record.attacks} == ({(N, N)} if made else set())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    return found, (record.forwards, record.backwards)


@pytest.mark.parametrize(
    "made",
    [
        lambda model: None,
        lambda model: model,
        lambda model: Around(model, by_parts),
        lambda model: Around(model, itself),
        lambda model: Around(Around(model, itself), itself),
        lambda model: copy.deepcopy(model),
        lambda model: partial(by_parts, model),
        lambda model: partial(itself, model),
    ],
    ids=["none", "the model", "parts", "around", "around twice", "another network", "function", "function around"],
)
def test_steps_on_any_surrogate_count_once(made):
    """The judge sees every clean image and the last of each, the surrogate those between."""
    model = Sure()
    found, whole = cost(model, made(model))
    assert found == [((K + 2) * N, K * N)]
    assert whole == ((K + 3) * N, K * N)
    assert cost(model, None, made(model), column=True)[1] == ((2 * K + 5) * N, 2 * K * N)


@pytest.mark.parametrize("call", [by_parts, itself])
def test_every_draw_of_a_random_surrogate_counts(call):
    model = Sure()
    surrogate = Drawn(model, call)
    found, _ = cost(model, surrogate, attack=PGD(THREAT, steps=K, draws=R))
    assert found == [((K * R + 2) * N, K * R * N)]
    assert "draw" not in vars(surrogate)


def test_what_all_attacks_climb_counts_once_where_one_declares_it():
    model = Sure()
    fast = copy.deepcopy(model)
    found, _ = cost(model, None, fast, model, climbed=fast)
    assert found == [((K + 2) * N, K * N)] * 3


def test_surrogates_of_ciiv_count_like_the_model():
    """Their views are those of the network behind the sampler, not calls of the model; this judge calls nothing."""
    model = CiiV(SplitNet(channels=3), Sampling(loops=2), channels=1, size=8, mean=0.5, std=0.25).eval()
    never = lambda images, labels, streams: torch.zeros(len(labels), dtype=torch.bool)  # noqa: E731
    for declared in model.attack_surrogates():
        draws = R if declared.name.startswith("ciiv-a") else 1
        attack = PGD(THREAT, steps=K, draws=draws, loss=declared.loss)
        found, _ = cost(model, declared.surrogate, attack=attack, judge=never)
        assert found == [(K * draws * N, K * draws * N)], declared.name


def test_checks_are_allowed_a_tenth_of_what_surrogates_took():
    """As many examples are looked at as where the attack climbs the model, more than after a short one."""

    def spent(made, steps):
        model, images = Sure(), torch.rand(100, 1, 8, 8)
        attack = Declared(PGD(THREAT, steps=steps), model=model, surrogate=made(model))
        probes = Probes(single_step=FGSM, iterative=partial(PGD, steps=5))
        labels = torch.zeros(100, dtype=torch.int64)
        record = judged(model, images, labels, [attack], THREAT, probes=probes)
        (note,) = (note for note in record.notes if note.startswith("masking checks: "))
        return int(note.split(", ")[1].split()[0])

    whole = spent(lambda model: Around(model, by_parts), LONG)
    assert whole == spent(lambda model: None, LONG)
    assert whole > spent(lambda model: Around(model, by_parts), 1)
