"""Data by name: digits, folders, functions, and every way in which they can be wrong."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from deconfound.data.memory import MemoryImages
from deconfound.data.sources import load
from deconfound.data.streamed import StreamedImages
from deconfound.errors import InputError


def encoded(values):
    import io

    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, "PNG")
    return {"bytes": buffer.getvalue(), "path": None}


def table(images, labels, image="image", label="label", label_type=None, image_type=None):
    import datasets

    features = datasets.Features(
        {image: image_type or datasets.Image(), label: label_type or datasets.ClassLabel(names=["a", "b"])}
    )
    return datasets.Dataset.from_dict({image: [encoded(i) for i in images], label: labels}, features=features)


def tables(**splits):
    import datasets

    return datasets.DatasetDict(splits)


def refusal(name, **options):
    with pytest.raises(InputError) as caught:
        load(name, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# digits


def test_digits_are_the_bundled_ones():
    from sklearn.datasets import load_digits

    bundle, data = load_digits(), load("digits")
    assert (data.name, data.family, data.shape, data.class_names) == (
        "digits",
        "digits",
        (1, 16, 16),
        tuple("0123456789"),
    )
    assert (len(data.train), len(data.test)) == (1437, 360)
    assert data.train.labels.tolist() + data.test.labels.tolist() == bundle.target.tolist()
    assert data.train.images.dtype == torch.uint8
    assert data.test.name == "digits[test]"
    images = torch.cat([data.train.images, data.test.images]).double() / 255
    # Twice the side with pixel centres: corners are kept, and 2x2 means are a 3x3 blur of the source.
    assert torch.allclose(images[:, 0, 0, 0], torch.from_numpy(bundle.images[:, 0, 0]) / 16, atol=1 / 500)
    source = torch.nn.functional.pad(torch.from_numpy(bundle.images)[:, None] / 16, (1,) * 4, mode="replicate")
    weights = torch.tensor([1.0, 6.0, 1.0], dtype=torch.float64) / 8
    blurred = torch.nn.functional.conv2d(source, (weights[:, None] * weights).view(1, 1, 3, 3))
    assert torch.allclose(torch.nn.functional.avg_pool2d(images, 2), blurred, atol=1 / 500)


def test_digits_in_other_forms():
    data = load("digits", size=32, channels=3)
    assert data.shape == (3, 32, 32)
    assert torch.equal(data.train.images[:, 0], data.train.images[:, 2])
    assert load("digits").test.digest() == load("digits").test.digest() != data.test.digest()


# tables


def test_table_folder_keeps_names_and_order(tmp_path, pixels):
    images = [pixels(number) for number in range(4)]
    table(images, [1, 0, 0, 1], "img", "fine_label").to_parquet(str(tmp_path / "train.parquet"))
    table(images[:2], [1, 0], "img", "fine_label").to_parquet(str(tmp_path / "validation.parquet"))
    data = load(str(tmp_path))
    assert data.class_names == ("a", "b")
    assert data.train.labels.tolist() == [1, 0, 0, 1]
    assert len(data.test) == 2
    assert np.array_equal(data.train.images[2].numpy(), images[2].transpose(2, 0, 1))


def test_a_changed_file_is_read_again(tmp_path, pixels):
    for number in (1, 2):
        table([pixels(number)], [0]).to_parquet(str(tmp_path / "train.parquet"))
        assert np.array_equal(load(str(tmp_path)).train.images[0].numpy(), pixels(number).transpose(2, 0, 1))


def test_saved_to_disk(tmp_path, pixels):
    saved = tables(train=table([pixels(1), pixels(2)], [0, 1]), test=table([pixels(3)], [1]))
    saved.save_to_disk(str(tmp_path / "saved"))
    assert (len(load(str(tmp_path / "saved")).train), len(load(str(tmp_path / "saved")).test)) == (2, 1)


def test_a_corrupt_row_is_named(function, pixels):
    import datasets

    broken = table([pixels(0), pixels(1)], [0, 1]).cast_column("image", datasets.Image(decode=False))
    broken = broken.map(
        lambda row, place: {"image": {"bytes": b"x" * 9, "path": "k.png"}} if place else {}, with_indices=True
    )
    assert "train row 1 (k.png)" in refusal(function({"train": broken}))


def test_a_table_from_a_function_with_integer_labels(function, pixels):
    import datasets

    images = [pixels(number, 1) for number in range(3)]
    found = tables(train=table(images, [0, 2, 4], label_type=datasets.Value("int64")))
    data = load(function(found))
    assert data.class_names == tuple("01234")
    assert data.shape == (1, 8, 8)


def test_bytes_without_an_image_type(function, pixels):
    import datasets

    plain = {"bytes": datasets.Value("binary"), "path": datasets.Value("string")}
    found = load(function({"train": table([pixels(1)], [0], image_type=plain)}))
    assert np.array_equal(found.train.images[0].numpy(), pixels(1).transpose(2, 0, 1))


def test_selected_rows_are_the_rows(function, pixels):
    found = table([pixels(n) for n in range(5)], [0, 1, 0, 1, 0]).select([4, 1])
    for limit in (0, 10**6):
        data = load(function({"train": found}), limit_memory=limit, workers=0)
        (batch,) = data.train.batches([torch.arange(2)])
        assert np.array_equal((batch.images[0] * 255).round().byte().numpy(), pixels(4).transpose(2, 0, 1))
        assert batch.labels.tolist() == [0, 1]
        data.train.digest()


@pytest.mark.parametrize(("limit", "kind"), [(5 * 192 - 1, StreamedImages), (5 * 192, MemoryImages)])
def test_limit_of_memory_counts_decoded_bytes_of_all_splits(make_folder, limit, kind):
    folder = make_folder({"train": {"a": [0, 1, 2]}, "test": {"a": [3, 4]}})
    data = load(str(folder), limit_memory=limit)
    assert type(data.train) is type(data.test) is kind


def test_unlabelled_test_images_give_way_to_validation(function, pixels):
    images = [pixels(0), pixels(1)]
    hidden, shown = table(images, [-1, -1]), table(images, [1, 0])
    assert load(function(tables(train=shown, validation=shown, test=hidden))).test.labels.tolist() == [1, 0]
    message = refusal(function(tables(train=shown, test=hidden)))
    assert "-1 in row 0" in message
    assert "unlabelled" in message
    assert "-1 in row 1" in refusal(function(tables(train=shown, validation=shown, test=table(images, [0, -1]))))


def test_unlabelled_tensors_give_way_to_validation_and_names_are_a_list(function):
    images = np.zeros((2, 1, 8, 8), dtype=np.uint8)
    hidden, shown = (images, np.array([-1, -1])), (images, np.array([1, 0]))
    splits = {"train": shown, "validation": shown, "test": hidden}
    assert load(function(splits)).test.labels.tolist() == [1, 0]
    assert "-1" in refusal(function({"train": shown, "test": hidden}))
    for names in (5, "ab"):
        assert "a list of names" in refusal(function({"train": (*shown, names), "test": shown}))


def test_tables_that_cannot_serve(function, pixels):
    import datasets

    one, number, text = [pixels(0)], datasets.Value("int64"), datasets.Value("string")
    none = datasets.ClassLabel(names=["a", "b"])
    good = table(one, [1])
    assert "image column" in refusal(function({"train": good.remove_columns("image")}))
    assert "label column" in refusal(function({"train": good.remove_columns("label")}))
    assert "label column" in refusal(function({"train": table(one, ["a"], label_type=text)}))
    assert "label column" in refusal(function({"train": table(one, [1], label="weight", label_type=number)}))
    camera = datasets.ClassLabel(names=["x", "y", "z"])
    labelled = table(one, [1], label_type=number).add_column("camera", [0], feature=camera)
    assert load(function({"train": labelled})).class_names == ("0", "1")
    two = good.rename_column("label", "x").add_column("y", [0], feature=none)
    assert "['x', 'y']" in refusal(function({"train": two}))
    assert "empty split" in refusal(function({"train": good, "test": good.select([])}))
    assert "empty split" in refusal(function({"train": table([], [])}))
    assert "row 0" in refusal(function({"train": table(one, [None])}))
    assert "-3 in row 0" in refusal(function({"train": table(one, [-3], label_type=number)}))
    other = table(one, [0], label_type=datasets.ClassLabel(names=["a", "c"]))
    assert "in one of them only" in refusal(function({"train": good, "test": other}))
    assert "extra" in refusal(function({"extra": good}))
    assert "IterableDataset" in refusal(function({"train": good.to_iterable_dataset()}))
    assert "train row 0" in refusal(function({"train": good.map(lambda row: {"image": None})}))


def test_a_mix_of_tables_and_tensors(function, pixels):
    assert "for all splits" in refusal(
        function({"train": (torch.zeros(1, 3, 8, 8), [0]), "test": table([pixels(0)], [0])})
    )


# names and options


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("digit", "did you mean 'digits'"),
        ("mnist", "did you mean 'ylecun/mnist'"),
        ("cifar100", "did you mean 'uoft-cs/cifar100'"),
        ("zzzzzz", "OWNER/NAME"),
        ("./nowhere", "a folder that exists"),
        ("/nowhere/mnist", "a folder that exists"),
        ("a/b/c", "a folder that exists"),
        ("~nobody-of-this-name/x", "a folder that exists"),
        ("back\\slash", "a folder that exists"),
        ("", "a data name"),
        ("no_such_module_:make", "no_such_module_"),
        ("json:no_such_function", "no_such_function"),
        ("json:__version__.x", "one of json:__version__."),
        ("json:load_", "did you mean 'json:load'"),
        ("x" * 5000, "expected"),
    ],
)
def test_names_that_are_none(name, part):
    assert part in refusal(name)


@pytest.mark.parametrize(
    "options", [{"size": 0}, {"channels": 2}, {"channels": 0}, {"limit_memory": -1}, {"workers": -1}]
)
def test_options_out_of_range(options):
    assert next(iter(options)) in refusal("digits", **options)


def test_imports_are_as_late_as_can_be():
    code = """
import sys
import deconfound.data as data
assert "torch" not in sys.modules
assert set(data.__all__) == set(data._HOME)
data.load("digits")
assert "datasets" not in sys.modules
"""
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)


def test_all_that_is_announced_is_there():
    import deconfound.data as data

    for name in data.__all__:
        assert getattr(data, name) is not None
    with pytest.raises(AttributeError, match="nothing"):
        _ = data.nothing
