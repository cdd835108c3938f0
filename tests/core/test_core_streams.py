"""Random streams: what a draw depends on, and whether the numbers are as random as they claim.

Statistical tests use fixed seeds, so they cannot flicker; each bound is passed by chance with the stated error rate.
"""

from __future__ import annotations

import math

import pytest
import torch
from scipy import stats

from deconfound.core.streams import Streams
from deconfound.errors import InputError
from deconfound.functional.hashing import bits_to_uniform, mix64, name_key, random_bits, signed

DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"))]
# Two-sided 5.2 sigma: one false alarm in five million tests.
SIGMAS = 5.2


def near(measured, expected, deviation):
    assert abs(float(measured) - expected) < SIGMAS * deviation


@pytest.mark.parametrize("device", DEVICES)
def test_draws_do_not_depend_on_batch_order_or_device(device):
    whole = Streams(3, range(50))
    order = torch.randperm(50, generator=torch.Generator().manual_seed(0))
    parts = [Streams(3, part).to(device) for part in order.split([1, 7, 42])]
    for draw in (lambda s: s.uniform((2, 3)), lambda s: s.integers(0, 10, (4,)), lambda s: s.fold("a", 1).uniform()):
        assert torch.equal(torch.cat([draw(part) for part in parts]).cpu(), draw(whole)[order])
    normal = torch.cat([part.normal((5,)) for part in parts]).cpu()
    torch.testing.assert_close(normal, whole.normal((5,))[order], rtol=0, atol=0 if device == "cpu" else 1e-5)


def test_indexing_and_prefixes_keep_every_number():
    streams = Streams(1, [5, 9, 2])
    assert len(streams) == 3
    assert torch.equal(streams[torch.tensor([2, 0])].uniform((4,)), Streams(1, [2, 5]).uniform((4,)))
    mask = torch.tensor([True, False, True])
    assert torch.equal(streams[mask].uniform((4,)), Streams(1, [5, 2]).uniform((4,)))
    assert torch.equal(streams.uniform((7,))[:, :3], streams.uniform((3,)))
    assert torch.equal(streams.uniform((2, 3)).flatten(1), streams.uniform((6,)))
    assert streams.uniform().shape == (3,)
    assert Streams(1, []).uniform((2, 2)).shape == (0, 2, 2)


def test_global_random_state_is_neither_read_nor_moved():
    before = torch.get_rng_state()
    first = Streams(0, range(5)).normal((3,))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(99)
    assert torch.equal(Streams(0, range(5)).normal((3,)), first)


def test_folds_seeds_and_names_all_count():
    base = Streams(0, range(20))
    variants = [
        base,
        Streams(1, range(20)),
        Streams(-1, range(20)),
        base.fold("a"),
        base.fold("b"),
        base.fold(1),
        base.fold("1"),
        base.fold("a", "b"),
        base.fold("b", "a"),
        base.fold("ab"),
        base.fold("a").fold("b"),
        base.fold("b").fold("a"),
    ]
    bits = torch.cat([variant.uniform((4,), torch.float64).flatten() for variant in variants])
    assert len(bits.unique()) == len(bits)


def test_bad_ids_are_refused_in_one_line():
    for ids, shown in ((torch.zeros(2), "float32 of shape (2,)"), (torch.zeros(2, 2, dtype=torch.int64), "(2, 2)")):
        with pytest.raises(InputError, match=r"^ids: ") as caught:
            Streams(0, ids)
        assert shown in str(caught.value)
    with pytest.raises(InputError, match=r"^high: got 3; expected greater than low = 3$"):
        Streams(0, [0]).integers(3, 3)


@pytest.mark.parametrize("dtype", DTYPES)
def test_uniform_is_never_0_or_1_even_from_extreme_bits(dtype):
    extreme = torch.tensor([[0, -1, 1, signed(1 << 63), (1 << 63) - 1]], dtype=torch.int64)
    numbers = bits_to_uniform(extreme, dtype)
    assert numbers.dtype == dtype
    assert bool(((numbers > 0) & (numbers < 1)).all())
    half_cell = torch.finfo(dtype).eps / 2
    assert numbers[0, :2].double().tolist() == [half_cell, 1 - half_cell]
    drawn = Streams(0, range(1000)).uniform((100,), dtype)
    assert bool(((drawn > 0) & (drawn < 1)).all())
    near(drawn.double().mean(), 0.5, math.sqrt(1 / 12 / 1e5))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_uniform_is_uniform(dtype):
    """Kolmogorov-Smirnov on 10^5 numbers, error rate 10^-6, along ids, positions and folds."""
    many = torch.arange(100_000)
    for numbers in (
        Streams(0, many).uniform((), dtype),
        Streams(1, [12345]).uniform((100_000,), dtype),
        torch.cat([Streams(2, range(10)).fold("n", k).uniform((10,), dtype).flatten() for k in range(1000)]),
        Streams(3, many * 2**32).uniform((), dtype),
    ):
        assert stats.kstest(numbers.flatten().double().numpy(), "uniform").pvalue > 1e-6


def test_bits_are_fair_and_do_not_depend_on_each_other():
    """Each of 64 bits is 1 half of the time, and every pair of bits agrees half of the time."""
    words = random_bits(mix64(torch.arange(2000)), 10).flatten()
    bits = (words[:, None] >> torch.arange(64)) & 1
    signs = bits.double().mul(2).sub(1)
    moments = signs.T @ signs / len(words)
    moments.fill_diagonal_(0)
    bound = 6 / math.sqrt(len(words))  # 6 sigma over 2016 pairs: 4e-6
    assert float(moments.abs().max()) < bound
    assert float(signs.mean(dim=0).abs().max()) < bound


def test_moments_and_correlations_are_those_of_independent_numbers():
    """Correlations between neighbouring ids, positions, folds and seeds, each within 5.2 sigma of 0."""
    count, width = 500, 400
    base = Streams(11, range(count))
    grid = base.uniform((width,), torch.float64)
    total = count * width
    near(grid.mean(), 0.5, math.sqrt(1 / 12 / total))
    near(grid.var(), 1 / 12, math.sqrt(1 / 180 / total))
    centred = (grid - 0.5) * math.sqrt(12)
    for lag in (1, 2, 7, 64):
        near((centred[lag:] * centred[:-lag]).mean(), 0, 1 / math.sqrt((count - lag) * width))
        near((centred[:, lag:] * centred[:, :-lag]).mean(), 0, 1 / math.sqrt(count * (width - lag)))
    others = [
        base.fold("restart", 0),
        base.fold("restart", 1),
        base.fold("epoch", 1).fold("craft"),
        Streams(12, range(count)),
    ]
    drawn = [centred, *((o.uniform((width,), torch.float64) - 0.5) * math.sqrt(12) for o in others)]
    for i, first in enumerate(drawn):
        for second in drawn[:i]:
            near((first * second).mean(), 0, 1 / math.sqrt(total))
            near((first[1:] * second[:-1]).mean(), 0, 1 / math.sqrt(total - width))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_normal_is_normal_far_into_its_tails(dtype):
    numbers = Streams(4, range(1000)).normal((1000,), dtype).flatten().double()
    total = len(numbers)
    assert bool(torch.isfinite(numbers).all())
    assert stats.kstest(numbers.numpy(), "norm").pvalue > 1e-6
    near(numbers.mean(), 0, 1 / math.sqrt(total))
    near(numbers.var(), 1, math.sqrt(2 / total))
    near((numbers**4).mean(), 3, math.sqrt(96 / total))
    for threshold in (2.0, 3.0, 4.0):
        for side in (numbers > threshold, numbers < -threshold):
            share = float(stats.norm.sf(threshold))
            assert stats.binomtest(int(side.sum()), total, share).pvalue > 1e-6
    assert 4.3 < float(numbers.abs().max()) < 6.2  # the largest of 10^6: outside with probability 2e-5 / 1e-3


def test_integers_fill_their_range_evenly():
    numbers = Streams(5, range(1000)).integers(-3, 4, (100,))
    assert numbers.dtype == torch.int64
    counts = torch.bincount(numbers.flatten() + 3, minlength=7)
    assert len(counts) == 7
    assert stats.chisquare(counts.numpy()).pvalue > 1e-6
    assert Streams(5, range(4)).integers(8, 9).tolist() == [8, 8, 8, 8]
    wide = Streams(5, range(1000)).integers(0, 2**40, (10,))
    assert int(wide.min()) >= 0
    assert 2**39 < int(wide.max()) < 2**40


def test_mix64_is_the_published_finaliser():
    """splitmix64 seeded with 1234567 (reference values from the algorithm's public test vectors)."""
    words = random_bits(torch.tensor([1234567]), 5)[0].tolist()
    assert [word % 2**64 for word in words] == [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]


def test_numbers_never_change():
    """A change here changes every result that was ever recorded; it needs a new major version."""
    streams = Streams(0, [0, 1, 59_999])
    assert name_key("seed", 0) == FROZEN["key"]
    assert streams.uniform((2,)).tolist() == FROZEN["uniform32"]
    assert streams.uniform((2,), torch.float64).tolist() == FROZEN["uniform64"]
    assert streams.fold("restart", 1).uniform((), torch.float64).tolist() == FROZEN["folded"]
    assert streams.integers(0, 1000, (3,)).tolist() == FROZEN["integers"]
    torch.testing.assert_close(streams.normal((2,)), torch.tensor(FROZEN["normal"]), rtol=0, atol=1e-5)


FROZEN = {
    "key": 1774961479203129348,
    "uniform32": [
        [0.3378099799156189, 0.06038421392440796],
        [0.8802151083946228, 0.3828597664833069],
        [0.2952798008918762, 0.1064712405204773],
    ],
    "uniform64": [
        [0.3378099955365311, 0.06038420567284375],
        [0.8802151158921591, 0.3828598184889108],
        [0.2952797714428107, 0.10647124953109388],
    ],
    "folded": [0.612143057966562, 0.024652608571504753, 0.05428022933107568],
    "integers": [[337, 60, 913], [880, 382, 917], [295, 106, 844]],
    "normal": [
        [-0.4184475243091583, -1.5515563488006592],
        [1.176062822341919, -0.29797855019569397],
        [-0.5380252599716187, -1.245514988899231],
    ],
}


def test_levels_are_the_bytes_of_the_words_and_uniform():
    streams = Streams(2, range(60))
    found = streams.levels((3, 7))
    assert (found.shape, found.dtype) == ((60, 3, 7), torch.uint8)
    assert torch.equal(found.flatten(1), streams.levels((24,))[:, :21])  # 21 levels are three words, cut short
    words = random_bits(streams._keys, 3)
    assert torch.equal(found[:, 0, 0].to(torch.int64), words[:, 0] & 255)
    assert torch.equal(Streams(2, [9, 4]).levels((5,)), streams.levels((5,))[[9, 4]])
    counts = Streams(0, range(64)).levels((4096,)).flatten().to(torch.int64).bincount(minlength=256)
    assert stats.chisquare(counts.numpy()).pvalue > 1e-6  # fails by chance once in a million
