"""Image folders by class, and every way in which they can be wrong."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from deconfound.data.sources import load
from deconfound.errors import InputError


def refusal(name, **options):
    with pytest.raises(InputError) as caught:
        load(name, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_image_folder_with_splits(make_folder, pixels):
    folder = make_folder({"train": {"dog": [3], "cat": [2, 1]}, "val": {"dog": [4]}})
    (folder / "train" / "cat" / "notes.txt").write_text("not an image")
    (folder / "train" / "cat" / ".hidden.png").write_text("not one either")
    data = load(str(folder))
    assert data.class_names == ("cat", "dog")
    assert data.train.labels.tolist() == [0, 0, 1]
    assert data.test.labels.tolist() == [1]
    expected = [pixels(number).transpose(2, 0, 1) for number in (1, 2, 3)]
    assert np.array_equal(data.train.images.numpy(), np.stack(expected))


def test_class_folders_alone_are_a_train_split(make_folder):
    data = load(str(make_folder({"": {"cat": [0], "dog": [1, 2]}})))
    assert (len(data.train), data.test, data.class_names) == (3, None, ("cat", "dog"))


def test_only_the_asked_parts_are_decoded(make_folder):
    folder = make_folder({"train": {"a": [1, 2], "b": [3]}, "test": {"a": [4], "b": [5]}})
    whole, part = load(str(folder)), load(str(folder), parts=("test",))
    assert part.train is None
    assert part.class_names == whole.class_names
    assert part.test.digest() == whole.test.digest()
    with pytest.raises(InputError, match="parts: got"):
        load(str(folder), parts=("tset",))


def test_a_set_without_the_asked_part(make_folder):
    folder = make_folder({"": {"a": [1], "b": [2]}})
    with pytest.raises(InputError, match="a data set with test images"):
        load(str(folder), parts=("test",))


def test_words_in_file_names_do_not_make_splits(make_folder):
    folder = make_folder({"": {"cat": [0], "dog": [1]}})
    (folder / "cat" / "000.png").rename(folder / "cat" / "test_0.png")
    assert load(str(folder)).train.labels.tolist() == [0, 1]


def test_grey_folder_and_repeated_channels(make_folder, pixels):
    folder = str(make_folder({"train": {"a": [1], "b": [2]}}, channels=1))
    grey, repeated = load(folder), load(folder, channels=3)
    assert (grey.shape, repeated.shape) == ((1, 8, 8), (3, 8, 8))
    assert np.array_equal(grey.train.images[0, 0].numpy(), pixels(1, 1))
    assert torch.equal(repeated.train.images, grey.train.images.repeat(1, 3, 1, 1))
    assert torch.equal(load(folder, channels=1).train.images, grey.train.images)


@pytest.mark.parametrize("count", [3, 200])
def test_one_colour_image_makes_the_set_colour(make_folder, pixels, count):
    folder = make_folder({"train": {"a": list(range(count))}, "test": {"a": [500]}}, channels=1)
    Image.fromarray(pixels(900)).save(folder / "train" / "a" / f"{count - 2:03}.png")
    data = load(str(folder))
    assert data.shape == data.test.shape == (3, 8, 8)
    for row in (0, count - 1):
        assert np.array_equal(data.train.images[row].numpy(), np.stack([pixels(row, 1)] * 3))
    assert np.array_equal(data.train.images[count - 2].numpy(), pixels(900).transpose(2, 0, 1))
    assert "colour" in refusal(str(folder), channels=1)
    (batch,) = load(str(folder), limit_memory=0, workers=0).train.batches([torch.arange(count)])
    assert torch.equal((batch.images * 255).round().byte(), data.train.images)


@pytest.mark.parametrize(("train", "test"), [("training", "testing"), ("Training", "eval"), ("train", "dev")])
def test_other_names_of_splits(make_folder, train, test):
    data = load(str(make_folder({train: {"cat": [0], "dog": [1]}, test: {"cat": [2], "dog": [3, 4]}})))
    assert (len(data.train), len(data.test), data.class_names) == (2, 3, ("cat", "dog"))


def test_one_split_under_two_names(make_folder):
    folder = make_folder({"train": {"cat": [0]}, "test": {"cat": [1]}, "eval": {"cat": [2]}})
    assert "got 'eval and test'; expected one folder for test" in refusal(str(folder))


def test_sizes_that_differ(make_folder, pixels):
    folder = make_folder({"train": {"a": [0, 1, 2]}})
    Image.fromarray(pixels(0, 3, 9, 12)).save(folder / "train" / "a" / "001.png")
    message = refusal(str(folder))
    for part in ("9x12", "001.png", "8x8", "000.png", "size=N"):
        assert part in message
    assert load(str(folder), size=6).shape == (3, 6, 6)


def test_sizes_that_differ_between_splits_or_late(make_folder, pixels):
    folder = make_folder({"train": {"a": list(range(200))}, "test": {"a": [300]}})
    Image.fromarray(pixels(0, 3, 9, 12)).save(folder / "train" / "a" / "003.png")
    assert "003.png" in refusal(str(folder))
    Image.fromarray(pixels(0)).save(folder / "train" / "a" / "003.png")
    Image.fromarray(pixels(0, 3, 9, 12)).save(folder / "test" / "a" / "300.png")
    assert "300.png" in refusal(str(folder))


@pytest.mark.parametrize("data", [b"", b"\x89PNG\r\n\x1a\nnothing", b"text"])
def test_a_corrupt_image_is_named(make_folder, data):
    folder = make_folder({"train": {"cat": [0, 1, 2]}})
    (folder / "train" / "cat" / "001.png").write_bytes(data)
    message = refusal(str(folder))
    assert "train/cat/001.png" in message
    assert "readable image" in message


def test_folders_that_are_none(make_folder, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "by class" in refusal(str(empty))
    assert "not a file" in refusal(__file__)
    folder = make_folder({"train": {"cat": [0]}, "test": {"Cat": [1]}})
    message = refusal(str(folder))
    assert "'Cat'" in message
    assert "classes of train: cat" in message
    loose = make_folder({"train": {"cat": [0]}, "test": {"": [1]}}, name="loose")
    assert "test/CLASS" in refusal(str(loose))
