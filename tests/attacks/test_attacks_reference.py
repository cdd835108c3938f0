"""The standard suite against the official AutoAttack on a network that others trained: the benchmark in small."""

from __future__ import annotations

import pytest
import torch

from deconfound import models
from deconfound.attacks import APGD, FAB, InTurn, Square
from deconfound.core.threat import ThreatModel
from deconfound.models.fast import fast_surrogate
from deconfound.store import read_weights

N, EPS, SHARE = 80, 0.3, 0.2


@pytest.fixture(scope="module")
def case(shared):
    from deconfound.data import load

    model = models.build("small", classes=10, channels=1, size=28)
    models.fit_state(model, read_weights(str(shared / "weights" / "mnist_small_pgd.pth"))[0], "weights")
    test = load(str(shared / "data" / "mnist"), parts=("test",)).test
    (batch,) = test.batches([torch.arange(200, 200 + N)])
    return model.eval().requires_grad_(False), batch.images, batch.labels


def right(model, images, labels):
    with torch.no_grad():
        return model(images).argmax(1) == labels


def theirs(model, images, labels, seed):
    from pyautoattack import AutoAttack

    attack = AutoAttack(model, norm="Linf", eps=EPS, seed=seed, version="standard", device="cpu")
    for part in (attack.apgd, attack.apgd_targeted):
        part.n_iter = part.n_iter_orig = int(100 * SHARE)
        part.n_iter_2, part.n_iter_min, part.size_decr = (max(int(f * part.n_iter), 1) for f in (0.22, 0.06, 0.03))
    attack.fab.n_iter = int(100 * SHARE)
    attack.square.n_queries = int(5000 * SHARE)
    return right(model, attack.run_standard_evaluation(images, labels, batch_size=N)[0], labels)


def ours(model, images, labels, precision):
    threat, steps = ThreatModel("linf", EPS), int(100 * SHARE)
    members = (
        APGD(threat, steps=steps),
        APGD(threat, steps=steps, targets=9),
        FAB(threat, steps=steps, targets=9),
        Square(threat, queries=int(5000 * SHARE)),
    )
    climbed = fast_surrogate(model, images, labels, precision=precision).classifier
    found = InTurn(members, "standard")(climbed, images, labels, judge=model)
    assert threat.contains(found, images).all()
    return right(model, found, labels)


@pytest.mark.filterwarnings("ignore")
def test_hardly_a_point_survives_us_and_not_the_union_of_two_seeds_of_autoattack(case):
    """On the benchmark's 800 points at most 0.5 % may; here two of 80, as seeds of theirs differ by as many."""
    union = theirs(*case, 0) & theirs(*case, 1)
    for precision in ("32", "bf16"):
        standing = ours(*case, precision)
        assert int((standing & ~union).sum()) <= 2, precision
        assert int(standing.sum()) <= int(union.sum()) + 2, precision
    assert 0.7 * N < int(union.sum()) < N
