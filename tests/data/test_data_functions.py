"""Data that a function returns."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch

from deconfound.data.sources import load
from deconfound.errors import InputError

BYTES = torch.arange(4 * 3 * 2 * 2).to(torch.uint8).view(4, 3, 2, 2)


def refusal(name, **options):
    with pytest.raises(InputError) as caught:
        load(name, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_function_that_returns_bytes_arrays_or_floats(function):
    labels = [0, 1, 2, 1]
    for images in (BYTES, BYTES.numpy()):
        data = load(function({"train": (images, labels)}))
        assert torch.equal(data.train.images, BYTES)
        assert (data.class_names, data.test, data.family) == (("0", "1", "2"), None, "generic")
    floats = torch.rand(4, 2, 5, 5, dtype=torch.float64)
    data = load(function({"train": (floats, np.array(labels, dtype=np.uint8)), "valid": (floats, labels)}))
    assert torch.equal(data.train.images, floats.float())
    assert data.shape == data.test.shape == (2, 5, 5)


def test_function_that_names_its_classes(function):
    data = load(function({"train": (BYTES, [0, 1, 0, 1], ["no", "yes", "perhaps"]), "test": (BYTES, [0, 0, 0, 2])}))
    assert data.class_names == data.test.class_names == ("no", "yes", "perhaps")


def test_function_with_grey_images_of_another_size(function):
    images = torch.rand(2, 1, 6, 8)
    data = load(function({"train": (images, [0, 1])}), size=3, channels=3)
    assert data.shape == (3, 3, 3)
    expected = torch.nn.functional.avg_pool2d(images[:, :, :, 1:7], 2)
    assert torch.allclose(data.train.images[:, :1, 1, 1], expected[:, :, 1, 1], atol=0.2)


def test_function_in_the_working_folder(tmp_path, monkeypatch):
    (tmp_path / "my_own_data.py").write_text(
        "import torch\ndef make():\n    return {'test': (torch.zeros(2, 1, 3, 3), torch.tensor([0, 1]))}\n"
        "def fail():\n    raise RuntimeError('first line\\nsecond line')\n"
    )
    monkeypatch.chdir(tmp_path)
    before = list(sys.path)
    assert len(load("my_own_data:make").test) == 2
    assert "first line" in refusal("my_own_data:fail")
    assert sys.path == before
    sys.modules.pop("my_own_data")


@pytest.mark.parametrize(
    ("result", "message"),
    [
        ([1], "list"),
        ({}, "dict"),
        ({"train": (BYTES,)}, "1 values"),
        ({"train": BYTES}, "Tensor"),
        ({"train": (BYTES, [0, 1, 2])}, "one label for each of the 4"),
        ({"train": (BYTES, [0, 1, -1, 0])}, "got -1"),
        ({"train": (BYTES, [0, 1, 2, 2], ["a", "b"])}, "0..1"),
        ({"train": (BYTES, [0.0, 1.0, 0.0, 1.0])}, "integers"),
        ({"train": (BYTES, ["a", "b", "c", "d"])}, "labels"),
        ({"train": (BYTES.float(), [0, 1, 2, 0])}, "divide by 255"),
        ({"train": (BYTES / 255 * float("nan"), [0, 1, 2, 0])}, "NaN"),
        ({"train": (BYTES.long(), [0, 1, 2, 0])}, "int64"),
        ({"train": (BYTES.permute(0, 2, 3, 1), [0, 1, 2, 0])}, "move the last axis"),
        ({"train": (BYTES[:, 0], [0, 1, 2, 0])}, "(N, C, H, W)"),
        ({"train": (BYTES[:0], [])}, "at least one image"),
        ({"train": (BYTES, [0, 1, 2, 0]), "test": (BYTES[..., :1], [0, 1, 2, 0])}, "size=N"),
        ({"train": (BYTES, [0, 1, 0, 0], ["a", "b"]), "test": (BYTES, [0, 1, 0, 0], ["b", "a"])}, "same names"),
        ({"training": (BYTES, [0, 1, 2, 0])}, "training"),
    ],
)
def test_functions_that_return_something_else(function, result, message):
    assert message in refusal(function(result))
