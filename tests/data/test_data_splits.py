"""Validation carved from training images."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from deconfound.data.memory import MemoryImages
from deconfound.data.sources import load
from deconfound.data.splits import carve_validation
from deconfound.data.streamed import StreamedImages
from deconfound.errors import InputError


def numbered(count):
    images = torch.arange(count).remainder(256).to(torch.uint8).view(count, 1, 1, 1)
    return MemoryImages(images, torch.arange(count) % 2, ("even", "odd"), "numbers")


@given(st.integers(10, 300), st.integers(1, 40), st.integers(0, 2**31))
def test_parts_are_disjoint_and_together_the_source(count, size, seed):
    source = numbered(count)
    train, validation = carve_validation(source, size, seed)
    assert len(validation) == min(size, count // 10)
    assert sorted(train.index.tolist() + validation.index.tolist()) == list(range(count))
    for part in (train, validation):
        assert part.index.tolist() == sorted(part.index.tolist())
        assert torch.equal(part.labels, part.index % 2)


def test_the_seed_decides():
    source = numbered(1000)
    _, first = carve_validation(source, 50, 3)
    _, again = carve_validation(source, 50, 3)
    _, other = carve_validation(source, 50, 4)
    assert torch.equal(first.index, again.index)
    assert not torch.equal(first.index, other.index)


def test_the_same_on_every_machine():
    _, validation = carve_validation(numbered(100), 10, 0)
    expected = torch.randperm(100, generator=torch.Generator().manual_seed(0))[:10].sort().values
    assert validation.index.tolist() == expected.tolist() == PINNED


# What seed 0 chose when this was written: validation accuracy is comparable only while it stays.
PINNED = [19, 37, 44, 53, 69, 71, 90, 91, 93, 95]


def test_the_global_random_state_is_left_alone():
    before = torch.random.get_rng_state()
    carve_validation(numbered(100), 10, 7)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_streamed_and_held_sources_are_cut_alike(make_folder):
    folder = make_folder({"train": {"a": list(range(12)), "b": list(range(12, 24))}})
    held = carve_validation(load(str(folder)).train, 5, 1)
    streamed = carve_validation(load(str(folder), limit_memory=0, workers=0).train, 5, 1)
    for one, other in zip(held, streamed, strict=True):
        assert isinstance(one, MemoryImages)
        assert isinstance(other, StreamedImages)
        assert torch.equal(one.index, other.index)
        plan = [torch.arange(len(one))]
        assert torch.equal(next(one.batches(plan)).images, next(other.batches(plan)).images)


@pytest.mark.parametrize(("count", "size", "field"), [(9, 1, "validation"), (100, 0, "validation size")])
def test_bad_input(count, size, field):
    with pytest.raises(InputError) as caught:
        carve_validation(numbered(count), size, 0)
    assert caught.value.field == field
