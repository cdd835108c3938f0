"""The moves of the Square attack: its schedule, windows and peaks, and what a candidate changes."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from deconfound.attacks.square_moves import MassMoves, SignMoves, reach
from deconfound.attacks.square_windows import BLOCK, Windows, peak, share, side, two_peaks
from deconfound.core.streams import Streams
from deconfound.core.threat import ThreatModel
from square_images import EPS, interior


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
