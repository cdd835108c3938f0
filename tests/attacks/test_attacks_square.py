"""The Square attack: its schedule and windows, its worst case on linear models, its queries."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from deconfound.attacks.losses import margin
from deconfound.attacks.square import Square
from deconfound.attacks.square_moves import MassMoves, SignMoves, reach
from deconfound.attacks.square_windows import BLOCK, Windows, peak, share, side, two_peaks
from deconfound.core.streams import Streams
from deconfound.core.threat import ThreatModel
from deconfound.errors import InputError

EPS = {"linf": 0.1, "l2": 0.5, "l1": 2.0}
norms = pytest.mark.parametrize("norm", list(EPS))


def linear(seed=0, channels=1, size=6):
    """A linear classifier in double precision, and its weight difference for two classes."""
    torch.manual_seed(seed)
    layer = nn.Linear(channels * size * size, 2).double()
    return nn.Sequential(nn.Flatten(), layer), (layer.weight[1] - layer.weight[0]).detach()


def interior(count=12, channels=1, size=6, dtype=torch.float64):
    """Images so far from 0 and 1 that no ball of the test touches the box."""
    generator = torch.Generator().manual_seed(1)
    return 0.4 + 0.2 * torch.rand(count, channels, size, size, generator=generator, dtype=dtype)


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


def test_the_schedule_halves_the_share_after_the_papers_queries():
    at = [10, 11, 50, 51, 200, 201, 500, 501, 1000, 1001, 2000, 2001, 4000, 4001, 6000, 6001, 8000, 8001]
    found = [math.log2(0.8 / share(query, 10_000, 0.8, True)) for query in at]
    assert found == [halving for halving in range(9) for _ in range(2)][:1] + sorted([*range(1, 9), *range(1, 9), 9])
    assert [share(query, 10_000, 0.8, False) for query in at] == [share(query, 10_000, 0.8, True) for query in at]
    assert share(51, 1000, 0.8, True) == 0.8 / 16
    assert share(51, 1000, 0.8, False) == 0.8 / 4


@given(part=st.floats(1e-4, 1), height=st.integers(1, 40), width=st.integers(1, 40), odd=st.booleans())
def test_squares_cover_their_share_as_nearly_as_the_image_allows(part, height, width, odd):
    found = side(part, height, width, odd)
    assert 1 <= found <= min(height, width)
    if not odd and 1 < found < min(height, width):
        assert abs(found**2 - part * height * width) <= found + 0.25
    if odd:
        assert found in (height, width) or (found >= 3 and found % 2 == 1)


def test_peaks_are_the_papers_pyramids():
    """Written out by hand: sums of nested rectangles, 1/(k+1)^power each, around (rows // 2, columns // 2)."""
    for rows, columns, power in ((3, 7, 2), (4, 7, 4), (1, 3, 2), (1, 1, 4)):
        total = torch.zeros(rows, columns, dtype=torch.float64)
        for k in range(max(rows // 2, columns // 2) + 1):
            for i in range(rows):
                for j in range(columns):
                    if abs(i - rows // 2) <= k and abs(j - columns // 2) <= k:
                        total[i, j] += 1 / (k + 1) ** power
        torch.testing.assert_close(peak(rows, columns, power), total)


@pytest.mark.parametrize("norm", ["l2", "l1"])
@pytest.mark.parametrize("size", [1, 2, 3, 5, 8])
def test_two_peaks_have_norm_one_opposite_signs_and_equal_halves(norm, size):
    order = 2 if norm == "l2" else 1
    upright, lying = two_peaks(size, norm).view(2, size, size)
    assert torch.equal(upright.T, lying)
    assert torch.linalg.vector_norm(upright, order) == pytest.approx(1)
    if size > 1:
        above, below = upright[: size // 2], upright[size // 2 :]
        assert bool((above > 0).all())
        assert bool((below < 0).all())
        assert torch.linalg.vector_norm(above, order) == pytest.approx(torch.linalg.vector_norm(below, order))


def test_windows_are_squares_at_every_position_equally_often():
    """Chi-square over the 4 x 5 positions of a 3 x 3 window, 10 000 draws: 43.8 is the 0.1 % point at 19 degrees."""
    count, height, width = 10_000, 6, 7
    windows = Windows((count, 2, height, width), Streams(0, range(count)), [3] * (BLOCK + 2), 1, 2)
    windows.at(0)
    (where,), coins = windows.at(BLOCK)
    assert where.shape == (count, 18)
    rows, columns = where // width % height, where % width
    corner = where[:, 0]
    expected = torch.arange(3)[:, None] * width + torch.arange(3)
    both = torch.cat([expected.flatten(), expected.flatten() + height * width])
    assert torch.equal(where - corner[:, None], both.expand(count, 18))
    assert (rows[:, :9].amax(1) - rows[:, :9].amin(1) == 2).all()
    assert (columns[:, :9].amax(1) - columns[:, :9].amin(1) == 2).all()
    counts = torch.bincount(rows[:, 0] * 5 + columns[:, 0], minlength=20)
    assert len(counts) == 20
    assert float(((counts - count / 20) ** 2 / (count / 20)).sum()) < 43.8
    assert abs(float((coins < 0.5).double().mean()) - 0.5) < 4 / math.sqrt(8 * count)
    assert not torch.equal(windows.at(0)[0][0], where)


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
    threat = ThreatModel(norm, eps)
    counting = Counting(lambda x: torch.stack([x.flatten(1).sum(1) * 0 + 1, x[:, 0, 0, 0] * 0], dim=1))
    Square(threat, queries=20)(counting, images, torch.zeros(3, dtype=torch.int64), Streams(seed, range(3)))
    assert len(counting.seen) == 1 + 20 + 1
    for seen in counting.seen:
        assert threat.contains(seen, images, 1e-6).all()
    assert not torch.equal(counting.seen[1], images)


@pytest.mark.parametrize("norm", ["l2", "l1"])
def test_large_float32_images_stay_inside_however_the_sums_round(norm):
    images = torch.ones(2, 3, 224, 224)
    images[1] = 0.7
    threat = ThreatModel(norm, {"l2": 3.0, "l1": 60.0}[norm])
    assert threat.eps * 0.999 < reach(threat, images) < threat.eps
    moves = MassMoves(threat, images, Streams(0, range(2)), [201, 41, 3, 3])
    for query in range(4):
        candidate = moves.propose(query)
        assert (threat.distance(candidate, images) <= threat.eps).all()
        moves.settle(torch.tensor([True, True]))
    assert float(threat.distance(moves.iterate, images)[1]) > 0.998 * threat.eps


@pytest.mark.parametrize("norm", ["l2", "l1"])
@pytest.mark.parametrize("channels", [1, 3])
def test_mass_is_neither_made_nor_lost_where_the_box_takes_none(norm, channels):
    images = interior(5, channels, 8)
    threat = ThreatModel(norm, 0.4)
    moves = MassMoves(threat, images, Streams(2, range(5)), [5, 3, 3, 3, 3, 3])
    for query in range(6):
        candidate = moves.propose(query).clone()
        torch.testing.assert_close(
            threat.distance(candidate, images), torch.full((5,), 0.4).double(), rtol=1e-6, atol=0
        )
        moves.settle(torch.arange(5) % 2 == 0)


@pytest.mark.parametrize(("norm", "channels"), [("linf", 1), ("linf", 2), ("l2", 1), ("l2", 2), ("l1", 1), ("l1", 2)])
def test_only_windows_change_and_what_is_not_better_is_taken_back(norm, channels):
    """Except in L1 with several channels, where the projection reaches everywhere. Empty windows stay as they are."""
    images, size = interior(6, channels, 10), 3
    make = SignMoves if norm == "linf" else MassMoves
    moves = make(ThreatModel(norm, EPS[norm]), images, Streams(4, range(6)), [size] * 40)
    better = torch.tensor([True, False, True, False, True, False])
    for query in range(40):
        before = moves.iterate.clone()
        after = moves.propose(query).clone()
        changed = (after != before).any(1).flatten(1).sum(1)
        assert changed.any()
        if (norm, channels) != ("l1", 2):
            assert (changed <= size**2 * (1 if norm == "linf" else 2)).all()
        moves.settle(better)
        assert torch.equal(moves.iterate, torch.where(better.view(-1, 1, 1, 1), after, before))


def test_no_single_pixel_of_one_channel_is_a_wasted_query():
    images = interior(50, 1, 5)
    moves = SignMoves(ThreatModel("linf", 0.1), images, Streams(0, range(50)), [1] * 10)
    for query in range(10):
        before = moves.iterate.clone()
        assert ((moves.propose(query) != before).flatten(1).sum(1) == 1).all()
        moves.settle(torch.ones(50, dtype=torch.bool))


def test_linf_starts_from_vertical_stripes_at_the_ends_of_the_range():
    images = interior(200, 3, 7, torch.float32)
    threat = ThreatModel("linf", 0.55)
    start = SignMoves(threat, images, Streams(0, range(200)), []).iterate
    low, high = (threat.project(images + end, images) for end in (-0.55, 0.55))
    up = start == high
    assert torch.equal(start, torch.where(up, high, low))
    assert torch.equal(up, up[:, :, :1].expand_as(up))
    assert 0.45 < float(up[:, :, 0].float().mean()) < 0.55


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
    assert torch.equal(found, images)
    assert len(random.draws) == 1 + 30 * 9 + 1


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
