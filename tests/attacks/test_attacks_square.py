"""The Square attack: its worst case on linear models, its queries, its judge, and the authors' code."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from deconfound.attacks.losses import margin
from deconfound.attacks.square import Square
from deconfound.attacks.square_windows import BLOCK
from deconfound.core.streams import Streams
from deconfound.core.threat import ThreatModel
from deconfound.errors import InputError
from square_images import EPS, interior
from toys import ball

norms = pytest.mark.parametrize("norm", list(EPS))


def linear(seed=0, channels=1, size=6):
    """A linear classifier in double precision, and its weight difference for two classes."""
    torch.manual_seed(seed)
    layer = nn.Linear(channels * size * size, 2).double()
    return nn.Sequential(nn.Flatten(), layer), (layer.weight[1] - layer.weight[0]).detach()


def net(classes=4, channels=2):
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(channels, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(4 * 16, classes)).double()


def standing(model, images):
    with torch.no_grad():
        return model(images).argmax(1)


class Counting(nn.Module):
    """Remembers the images of every call."""

    def __init__(self, inner):
        super().__init__()
        self.inner, self.seen = inner, []

    def forward(self, images):
        self.seen.append(images.clone())
        return self.inner(images)


def margins(model, images):
    with torch.no_grad():
        return margin(model, images, torch.zeros(len(images), dtype=torch.int64), {})


def lowered(model, images, gap):
    """The model with the second class so far behind that every image is right by more than ``gap``."""
    with torch.no_grad():
        model[1].bias[1] -= margins(model, images).amax() + gap
    return model


@norms
def test_square_never_exceeds_the_worst_case_of_a_linear_classifier_and_comes_near(norm):
    """The share of the possible gain that 1000 queries reach: all of it in L-infinity, whose optimum is a vertex.

    An L2 or L1 move puts a fixed form into a window, so the optimum is not among its candidates.
    """
    model, difference = linear()
    images, threat = interior(), ThreatModel(norm, EPS[norm])
    gain = EPS[norm] * torch.linalg.vector_norm(difference, {"linf": 1, "l2": 2, "l1": torch.inf}[norm])
    counting = Counting(lowered(model, images, 1.01 * float(gain)))
    attack = Square(threat, queries=1000, rescale=True)
    found = attack(counting, images, torch.zeros(12, dtype=torch.int64))
    assert torch.equal(found, images)
    best = torch.stack([margins(model, seen) - margins(model, images) for seen in counting.seen]).amax(0)
    assert bool((best <= gain * (1 + 1e-9)).all())
    least = {"linf": 0.9999, "l2": 0.65, "l1": 0.65}[norm]
    assert float(best.amin() / gain) > least, (best / gain).tolist()


def test_square_breaks_in_linf_exactly_what_can_be_broken():
    model, difference = linear()
    images, labels = interior(40), torch.zeros(40, dtype=torch.int64)
    reachable = 0.1 * difference.abs().sum()
    with torch.no_grad():
        model[1].bias[1] -= (margins(model, images) + reachable).median()
    clean = margins(model, images)
    found = Square(ThreatModel("linf", 0.1), queries=1000, rescale=True)(model, images, labels)
    decided = (clean + reachable).abs() > 1e-5
    assert torch.equal((margins(model, found) > 0)[decided], (clean + reachable > 0)[decided])
    assert 15 < int((margins(model, found) > 0).sum()) < 25


@norms
@given(
    seed=st.integers(0, 2**31),
    eps=st.floats(1e-3, 40),
    channels=st.integers(1, 3),
    height=st.integers(1, 12),
    width=st.integers(1, 12),
    double=st.booleans(),
)
@settings(max_examples=20, deadline=None)
def test_every_candidate_is_inside_the_threat_model(norm, seed, eps, channels, height, width, double):
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(3, channels, height, width, generator=generator).round(decimals=1)
    images = images.double() if double else images
    threat = ball(norm, eps)
    counting = Counting(lambda x: torch.stack([x.flatten(1).sum(1) * 0 + 1, x[:, 0, 0, 0] * 0], dim=1))
    Square(threat, queries=20)(counting, images, torch.zeros(3, dtype=torch.int64), Streams(seed, range(3)))
    assert len(counting.seen) == 1 + 20 + 1
    for seen in counting.seen:
        assert threat.contains(seen, images, 1e-6).all()
    assert not torch.equal(counting.seen[1], images)


@norms
@pytest.mark.parametrize("restarts", [1, 2])
def test_queries_are_counted_as_declared(norm, restarts):
    images = interior()
    model, _ = linear()
    counting = Counting(lowered(model, images, 1e3))
    attack = Square(ThreatModel(norm, 0.1), queries=BLOCK + 6, restarts=restarts)
    attack(counting, images, torch.zeros(12, dtype=torch.int64))
    assert len(counting.seen) == 1 + restarts * (BLOCK + 6 + 1)
    assert {len(seen) for seen in counting.seen} == {12}
    starts = counting.seen[1 :: BLOCK + 7]
    assert len(starts) == restarts
    assert restarts == 1 or not torch.equal(*starts)


@norms
@given(order=st.permutations(range(11)), size=st.integers(1, 11))
@settings(max_examples=4, deadline=None)
def test_results_do_not_depend_on_the_batch(norm, order, size):
    model, images = net(), torch.rand(11, 2, 6, 6, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    labels, index, order = standing(model, images), torch.arange(11) * 3, torch.tensor(order)
    attack = Square(ThreatModel(norm, EPS[norm]), queries=BLOCK + 8)
    whole = attack(model, images, labels, Streams(1, index))
    parts = [attack(model, images[p], labels[p], Streams(1, index[p])) for p in order.split(size)]
    again = torch.empty_like(whole)
    again[order] = torch.cat(parts)
    torch.testing.assert_close(again, whole, rtol=0, atol=1e-12)
    broken = (whole != images).flatten(1).any(1)
    assert broken.any()
    assert not broken.all()


def test_a_found_example_is_the_first_adversarial_candidate():
    model, images = net(), torch.rand(30, 2, 6, 6, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    labels, counting = standing(model, images), Counting(net())
    threat = ThreatModel("linf", 0.1)
    alone = []
    for i in range(30):
        counting.seen.clear()
        alone.append(Square(threat, queries=40)(counting, images[i : i + 1], labels[i : i + 1], Streams(0, [i])))
        wrong = [bool((model(seen).argmax(1) != labels[i]).any()) for seen in counting.seen]
        assert sum(wrong) == int(not torch.equal(alone[-1], images[i : i + 1]))
        assert not any(wrong) or torch.equal(counting.seen[wrong.index(True)], alone[-1])
    assert 0 < sum(not torch.equal(a, x[None]) for a, x in zip(alone, images, strict=True)) < 30


@norms
def test_a_judge_of_its_own_decides_about_the_candidate_that_was_forwarded(norm):
    judged, images = net(), torch.rand(40, 2, 6, 6, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    labels = standing(judged, images)

    def rough(x):
        return judged(x).bfloat16()

    found = Square(ThreatModel(norm, EPS[norm]), queries=60)(rough, images, labels, judge=judged)
    changed = (found != images).flatten(1).any(1)
    assert torch.equal(standing(judged, found) != labels, changed)
    assert ThreatModel(norm, EPS[norm]).contains(found, images).all()
    assert changed.any()


def test_the_loss_is_averaged_over_draws_of_a_random_model():
    class Random:
        """Logits that a coin moves by 1 up or down: a single draw mistakes the order, many draws do not."""

        def __init__(self):
            self.draws = []

        def __call__(self, images):
            raise AssertionError("a stochastic model is asked for draws")

        def draw(self, images, streams, draws):
            self.draws.append(len(images))
            coins = torch.where(streams.uniform((draws,)) < 0.5, -1.0, 1.0).T
            score = images.mean((1, 2, 3)) - 8 + coins
            return torch.stack([torch.zeros_like(score), score], dim=2).double()

    images, random = interior(8), Random()
    attack = Square(ThreatModel("linf", 0.1), queries=30, draws=9)
    found = attack(random, images, torch.zeros(8, dtype=torch.int64))
    assert attack.threat.contains(found, images).all()
    assert random.draws.count(8) == len(random.draws) == 30 * 9 + 1  # the judge looks once at what is left


def test_nan_losses_are_never_kept():
    """Where the judge does not mind, a candidate whose loss is NaN is worse than any other."""
    model, images = linear()[0], interior()

    def holed(x):
        z = model(x)
        return torch.where((x.flatten(1)[:, :1] > images.flatten(1)[:, :1]).expand_as(z), torch.nan, z)

    labels = torch.zeros(12, dtype=torch.int64)
    lowered(model, images, 1e3)
    seen = []

    def watched(x):
        seen.append(x.clone())
        return holed(x)

    Square(ThreatModel("linf", 0.1), queries=200)(
        watched, images, labels, judge=lambda x, y, s: torch.zeros_like(y) > 0
    )
    last = margins(holed, seen[-1])
    assert len(seen) == 201 - 1
    assert not last.isnan().all()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("queries", 0),
        ("queries", 1.5),
        ("p_init", 0),
        ("p_init", 1.1),
        ("rescale", "yes"),
        ("loss", "margin"),
        ("restarts", 0),
        ("draws", 0),
    ],
)
def test_settings_outside_their_range_are_refused(field, value):
    with pytest.raises(InputError, match=field):
        Square(ThreatModel(), **{field: value})


def test_images_need_height_and_width():
    with pytest.raises(InputError, match="height and width"):
        Square(ThreatModel())(None, torch.zeros(2, 9), torch.zeros(2, dtype=torch.int64))


def test_settings_describe_and_at_moves_the_threat_model_only():
    attack = Square(ThreatModel("linf", 0.1), queries=70, restarts=2)
    assert attack.name == "square-70x2"
    moved = attack.at(ThreatModel("l1", 3))
    assert moved.settings() == attack.settings() | {"norm": "l1", "eps": 3.0}
    assert attack.settings()["loss"] == "margin"


@pytest.mark.parametrize(("norm", "eps", "theirs"), [("linf", 0.35, "Linf"), ("l2", 2.5, "L2"), ("l1", 12.0, "L1")])
def test_as_strong_as_the_authors_code_at_equal_queries(shared, norm, eps, theirs):
    """Survivors of 60 queries on 100 digits of a robust network, both with the same schedule.

    Of points that only one of the two breaks, a fair coin gives each side half; a sign test at 0.1 % decides.
    """
    reference = pytest.importorskip("pyautoattack.square")
    model, images, labels = robust_digits(shared, 100)
    with torch.no_grad():
        ours = (
            model(Square(ThreatModel(norm, eps), queries=61, rescale=True)(model, images, labels)).argmax(1) == labels
        )
        attack = reference.SquareAttack(model, norm=theirs, n_queries=60, eps=eps, seed=0, device="cpu")
        found = attack.perturb(images, labels)
        other = model(found).argmax(1) == labels
    only_other, only_ours = int((ours & ~other).sum()), int((~ours & other).sum())
    total = only_other + only_ours
    chance = sum(math.comb(total, k) for k in range(only_other, total + 1)) / 2**total
    assert chance > 0.001, (int(ours.sum()), int(other.sum()))
    assert 0 < int((~ours).sum()) < 100


def robust_digits(shared, count):
    """The first correctly classified test digits of a network trained with PGD at 0.3."""
    import io

    parquet = pytest.importorskip("pyarrow.parquet")
    from PIL import Image

    (path,) = sorted((shared / "data" / "mnist").rglob("*test*.parquet"))
    columns = parquet.read_table(path).slice(0, count + 20).to_pydict()
    pictures = [Image.open(io.BytesIO(image["bytes"])).tobytes() for image in columns["image"]]
    pixels = [torch.frombuffer(bytearray(picture), dtype=torch.uint8).view(1, 28, 28) for picture in pictures]
    images, labels = torch.stack(pixels).float() / 255, torch.tensor(columns["label"])
    model = nn.Sequential(
        *(nn.Conv2d(1, 16, 4, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 4, 2, 1), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(1568, 100), nn.ReLU(), nn.Linear(100, 10)),
    )
    weights = torch.load(shared / "weights" / "mnist_small_pgd.pth", weights_only=True, map_location="cpu")
    model.load_state_dict(dict(zip(model.state_dict(), weights.values(), strict=True)))
    right = standing(model, images) == labels
    return model, images[right][:count], labels[right][:count]
