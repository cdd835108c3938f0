"""StreamedImages: the same bits as memory, with and without worker processes."""

from __future__ import annotations

import multiprocessing
import os

import pytest
import torch

from deconfound.data.memory import MemoryImages
from deconfound.data.sources import load
from deconfound.data.streamed import Form, StreamedImages
from deconfound.errors import InputError

LAYOUT = {"train": {"cat": list(range(20)), "dog": list(range(20, 37))}, "test": {"cat": [40, 41], "dog": [42]}}
PLAN = [torch.tensor([36, 0, 5]), torch.tensor([7]), torch.tensor([1, 1, 20, 19]), torch.arange(30)]


def streamed(folder, workers=0, **options):
    return load(str(folder), limit_memory=0, workers=workers, **options)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("options", [{}, {"size": 5}, {"size": 12, "channels": 3}])
def test_equal_to_memory_bit_by_bit(make_folder, workers, options):
    folder = make_folder(LAYOUT)
    held, stream = load(str(folder), **options), streamed(folder, workers, **options)
    assert isinstance(held.train, MemoryImages)
    assert isinstance(stream.train, StreamedImages)
    for one, other in ((held.train, stream.train), (held.test, stream.test)):
        plan = [part % len(one) for part in PLAN]
        assert (one.shape, one.class_names, one.name, len(one)) == (
            other.shape,
            other.class_names,
            other.name,
            len(other),
        )
        for wanted, found in zip(one.batches(plan), other.batches(plan), strict=True):
            assert found.images.dtype == torch.float32
            assert torch.equal(wanted.images, found.images)
            assert torch.equal(wanted.labels, found.labels)
            assert torch.equal(wanted.index, found.index)


def test_grey_images_and_the_plan_of_a_generator(make_folder):
    stream = streamed(make_folder(LAYOUT, channels=1), 2).train
    assert stream.shape == (1, 8, 8)
    plan = (torch.tensor([place]) for place in (3, 1, 2))
    assert [batch.index.item() for batch in stream.batches(plan)] == [3, 1, 2]


def test_order_is_that_of_the_plan_with_more_batches_than_are_fetched_ahead(make_folder):
    stream = streamed(make_folder(LAYOUT), 2).train
    plan = list(torch.randperm(37, generator=torch.Generator().manual_seed(0)).split(1))
    assert [batch.index.tolist() for batch in stream.batches(plan)] == [part.tolist() for part in plan]


def test_decoding_happens_in_other_processes_only_when_asked(tmp_path):
    class Tattling:
        def __len__(self):
            return 4

        def read(self, rows):
            (tmp_path / str(os.getpid())).touch()
            raise InputError("image", "somewhere", "a readable image file")

        def lengths(self):
            return torch.zeros(4, dtype=torch.int64)

    for workers, here in ((0, True), (1, False)):
        source = StreamedImages(Tattling(), torch.zeros(4).long(), ("a",), "x", Form((1, 2, 2), None), workers=workers)
        with pytest.raises(InputError, match="somewhere"):
            list(source.batches([torch.arange(4)]))
        assert (tmp_path / str(os.getpid())).exists() is here
        for mark in tmp_path.iterdir():
            mark.unlink()


def test_no_process_is_left_when_a_loop_is_broken_off(make_folder):
    stream = streamed(make_folder(LAYOUT), 2).train
    batches = stream.batches(torch.arange(37).split(2))
    next(batches)
    batches.close()
    assert multiprocessing.active_children() == []


def test_the_global_random_state_is_left_alone(make_folder):
    stream = streamed(make_folder(LAYOUT), 1).train
    before = torch.random.get_rng_state()
    list(stream.batches([torch.arange(3)]))
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_corrupt_image_is_one_line_also_from_a_worker(make_folder, workers):
    folder = make_folder({"train": {"cat": list(range(200))}})
    stream = streamed(folder, workers).train
    (folder / "train" / "cat" / "117.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    with pytest.raises(InputError) as caught:
        list(stream.batches(torch.arange(200).split(16)))
    assert "117.png" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_another_size_or_colour_found_late_is_refused(make_folder, pixels):
    from PIL import Image

    folder = make_folder({"train": {"cat": list(range(200))}}, channels=1)
    stream = streamed(folder).train
    Image.fromarray(pixels(1, 1, 9, 8)).save(folder / "train" / "cat" / "003.png")
    with pytest.raises(InputError, match=r"9x8.*003\.png.*8x8.*size=N"):
        list(stream.batches([torch.tensor([3])]))
    Image.fromarray(pixels(1, 3)).save(folder / "train" / "cat" / "003.png")
    with pytest.raises(InputError, match=r"channels: got 1; expected 3, because .*003\.png"):
        list(stream.batches([torch.tensor([3])]))


def test_subsets_keep_original_indices(make_folder):
    source = streamed(make_folder(LAYOUT)).train
    part = source.subset([30, 2, 9]).subset(torch.tensor([2, 0]))
    (batch,) = part.batches([torch.arange(2)])
    (whole,) = source.batches([torch.tensor([9, 30])])
    assert part.index.tolist() == batch.index.tolist() == [9, 30]
    assert part.labels.tolist() == batch.labels.tolist() == [0, 1]
    assert torch.equal(batch.images, whole.images)


def test_digest_follows_the_contents_not_the_place(make_folder, pixels):
    from PIL import Image

    first = make_folder(LAYOUT, name="one")
    second = make_folder(LAYOUT, name="two")
    digest = streamed(first).train.digest()
    assert streamed(second, 2).train.digest() == digest
    others = {
        streamed(second, size=4).train.digest(),
        streamed(second).test.digest(),
        streamed(second).train.subset(torch.arange(36)).digest(),
    }
    Image.fromarray(pixels(999)).save(second / "train" / "cat" / "011.png")
    others.add(streamed(second).train.digest())
    (first / "train" / "dog").rename(first / "train" / "fox")
    (first / "test" / "dog").rename(first / "test" / "fox")
    others.add(streamed(first).train.digest())
    assert len(others | {digest}) == 6


def test_digest_sees_the_length_of_images_outside_the_sample(make_folder, pixels, monkeypatch):
    from PIL import Image

    monkeypatch.setattr("deconfound.data.streamed.DIGEST_SAMPLE", 2)
    folder = make_folder(LAYOUT)
    digest = streamed(folder).train.digest()
    Image.fromarray(pixels(0) // 32).save(folder / "train" / "cat" / "011.png")
    assert streamed(folder).train.digest() != digest


@pytest.mark.parametrize("position", [-1, 37])
def test_positions_outside_the_split(make_folder, position):
    stream = streamed(make_folder(LAYOUT), 1).train
    with pytest.raises(InputError, match=r"positions.*0\.\.36"):
        list(stream.batches([torch.tensor([position])]))
    with pytest.raises(InputError, match="positions"):
        stream.subset([position])
    with pytest.raises(InputError, match="no image"):
        stream.subset([])
