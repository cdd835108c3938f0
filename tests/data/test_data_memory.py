"""MemoryImages: order, index, range, digest."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from deconfound.data.memory import MemoryImages
from deconfound.errors import InputError

IMAGES = torch.arange(6 * 3 * 4 * 5).remainder(256).to(torch.uint8).view(6, 3, 4, 5)
LABELS = torch.tensor([0, 1, 2, 0, 1, 2])
NAMES = ("a", "b", "c")


def source(images=IMAGES, labels=LABELS, names=NAMES, name="six"):
    return MemoryImages(images, labels, names, name)


@given(st.lists(st.lists(st.integers(0, 5), max_size=7), max_size=4))
def test_batches_follow_the_plan(plan):
    batches = list(source().batches([torch.tensor(part, dtype=torch.int64) for part in plan]))
    assert [batch.index.tolist() for batch in batches] == plan
    for batch in batches:
        assert batch.images.dtype == torch.float32
        assert torch.equal(batch.images, IMAGES[batch.index].to(torch.float32) / 255)
        assert torch.equal(batch.labels, LABELS[batch.index])


@given(st.lists(st.integers(0, 5), min_size=1), st.data())
def test_a_subset_of_a_subset_keeps_original_indices(first, data):
    second = data.draw(st.lists(st.integers(0, len(first) - 1), min_size=1))
    part = source().subset(first).subset(torch.tensor(second))
    expected = [first[place] for place in second]
    (batch,) = part.batches([torch.arange(len(part))])
    assert part.index.tolist() == batch.index.tolist() == expected
    assert torch.equal(batch.images, IMAGES[expected].float() / 255)
    assert part.labels.tolist() == LABELS[expected].tolist()


def test_facts():
    split = source()
    assert (split.name, split.class_names, split.shape, len(split)) == ("six", NAMES, (3, 4, 5), 6)


def test_stored_bytes_are_not_touched_by_what_a_batch_suffers():
    split = source()
    before = split.digest()
    for batch in split.batches([torch.arange(6)]):
        batch.images.zero_()
        batch.labels.zero_()
    assert source(split.images, split.labels).digest() == before


def test_floats_are_kept_exactly_and_owned():
    values = torch.rand(4, 1, 2, 2, dtype=torch.float64)
    split = source(values, torch.tensor([0, 1, 2, 0]))
    (batch,) = split.batches([torch.arange(4)])
    assert batch.images.dtype == torch.float32
    assert torch.equal(batch.images, values.float())
    batch.images.zero_()
    assert split.images.any()


def test_digest_sees_pixels_labels_names_and_shape_and_nothing_else():
    digest = source().digest()
    assert source(name="other").digest() == digest
    assert source(IMAGES.clone()).digest() == digest
    assert source().subset([0, 1, 2, 3, 4, 5]).digest() == digest
    changed = IMAGES.clone()
    changed[5, 2, 3, 4] += 1
    others = {
        source(changed).digest(),
        source(labels=LABELS.flip(0)).digest(),
        source(names=("a", "b", "d")).digest(),
        source(names=("a", "b", "c", "d")).digest(),
        source(IMAGES.view(6, 3, 5, 4)).digest(),
        source(IMAGES.flip(0), LABELS).digest(),
        source().subset([0, 1, 2, 3, 4]).digest(),
    }
    assert len(others | {digest}) == 8


def test_digest_of_names_cannot_run_together():
    labels = torch.zeros(6, dtype=torch.int64)
    assert source(labels=labels, names=("ab", "c")).digest() != source(labels=labels, names=("a", "bc")).digest()


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (IMAGES.long(), LABELS, "int64"),
        (IMAGES[0], LABELS, "(3, 4, 5)"),
        (IMAGES[:0], LABELS[:0], "no image"),
        (IMAGES.float(), LABELS, "divide by 255"),
        (IMAGES.float() / 255 - 0.1, LABELS, "in [0, 1]"),
        (torch.full((6, 1, 2, 2), float("nan")), LABELS, "NaN"),
        (IMAGES, LABELS[:5], "one label for each of the 6"),
        (IMAGES, LABELS + 1, "0..2"),
        (IMAGES, LABELS - 1, "got -1"),
        (IMAGES, LABELS.int(), "int32"),
        (IMAGES.numpy(), LABELS, "ndarray"),
    ],
)
def test_bad_input(images, labels, message):
    with pytest.raises(InputError) as caught:
        source(images, labels)
    assert message in str(caught.value)
    assert "six" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("position", [-1, 6])
def test_positions_outside_the_split(position):
    with pytest.raises(InputError, match=r"positions.*0\.\.5"):
        list(source().batches([torch.tensor([0, position])]))
    with pytest.raises(InputError, match="positions"):
        source().subset([position])


def test_positions_are_not_a_mask():
    with pytest.raises(InputError, match="positions"):
        source().subset(torch.ones(6, dtype=torch.bool))
