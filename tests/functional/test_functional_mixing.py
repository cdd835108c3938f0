"""Convex pairs: who is paired with whom, and with which weight.

Statistical tests have fixed seeds and fail by chance once in a million.
"""

from __future__ import annotations

import itertools

import pytest
import torch
from scipy import stats

from deconfound.core.streams import Streams
from deconfound.errors import InputError
from deconfound.functional.mixing import mix

MILLIONTH = 1e-6


def coded(count):
    """Image i is one at pixel i, so that a mixture tells what went into it."""
    return torch.eye(count, dtype=torch.float64).view(count, 1, 1, count)


@pytest.mark.parametrize("alpha", [0.2, 1.0, 4.0])
def test_images_are_mixed_as_partner_and_weight_say(alpha):
    mixed, partner, weight = mix(coded(9), Streams(0, range(9)), alpha)
    assert (partner.dtype, partner.shape, weight.shape) == (torch.int64, (9,), (9,))
    assert sorted(partner.tolist()) == list(range(9))
    expected = torch.diag(weight)
    expected[range(9), partner] += 1 - weight
    torch.testing.assert_close(mixed.view(9, 9), expected)


@pytest.mark.parametrize("alpha", [0.2, 1.0, 4.0])
def test_weights_are_beta(alpha):
    weight = mix(torch.zeros(4000, 1, 1, 1, dtype=torch.float64), Streams(1, range(4000)), alpha)[2]
    assert stats.kstest(weight.numpy(), stats.beta(alpha, alpha).cdf).pvalue > MILLIONTH
    assert stats.pearsonr(weight[:-1], weight[1:]).pvalue > MILLIONTH  # each pair has its own


def test_all_permutations_are_alike_and_independent_of_the_weights():
    counts = dict.fromkeys(itertools.permutations(range(3)), 0)
    heavy = []
    for seed in range(1200):
        _, partner, weight = mix(coded(3), Streams(seed, range(3)), 1.0)
        counts[tuple(partner.tolist())] += 1
        heavy.append((int(partner[0]), float(weight[0])))
    assert stats.chisquare(list(counts.values())).pvalue > MILLIONTH
    groups = [[w for p, w in heavy if p == place] for place in range(3)]
    assert stats.kruskal(*groups).pvalue > MILLIONTH


def test_pairs_follow_the_examples_not_their_order():
    streams, order = Streams(3, range(20)), torch.randperm(20, generator=torch.Generator().manual_seed(0))
    mixed, partner, weight = mix(coded(20), streams, 0.7)
    again, shuffled, weights = mix(coded(20)[order], streams[order], 0.7)
    assert torch.equal(again, mixed[order])
    assert torch.equal(weights, weight[order])
    assert torch.equal(order[shuffled], partner[order])
    assert not torch.equal(mix(coded(20), streams.fold("next"), 0.7)[1], partner)


def test_a_batch_of_one_is_itself_and_types_are_kept():
    images = torch.rand(1, 3, 2, 2)
    mixed, partner, weight = mix(images, Streams(0, [5]), 1.0)
    torch.testing.assert_close(mixed, images)
    assert partner.tolist() == [0]
    assert weight.dtype == torch.float32
    half = mix(torch.rand(4, 1, 2, 2).bfloat16(), Streams(0, range(4)), 0.3)
    assert half[0].dtype == torch.bfloat16


@pytest.mark.parametrize("alpha", [0.0, -1.0, float("inf"), float("nan")])
def test_bad_input(alpha):
    with pytest.raises(InputError, match=r"alpha: got .*; expected a number above 0"):
        mix(coded(2), Streams(0, range(2)), alpha)
