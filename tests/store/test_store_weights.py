"""Weights: equal content gives equal bytes; foreign files are opened as tensors only."""

from __future__ import annotations

import json
import os
import pickle
import random

import pytest
import torch
from safetensors import safe_open

from deconfound.errors import InputError
from deconfound.store import read_weights, write_weights
from deconfound.store.weights import digest_tensors


def tensors():
    generator = torch.Generator().manual_seed(0)
    return {
        "b.weight": torch.rand(3, 4, generator=generator),
        "a.bias": torch.rand(3, generator=generator),
        "count": torch.tensor(7),
        "half": torch.rand(2, 2, generator=generator).bfloat16(),
        "none": torch.zeros(0, 5),
    }


METADATA = {"shape": (1, 2, 3), "class_names": ("a", "b"), "recipe": {"lr": 0.1, "eps": 0.3}}


def test_equal_content_gives_equal_bytes(tmp_path):
    write_weights(tmp_path / "a" / "one", tensors(), METADATA)
    backwards = dict(reversed(tensors().items()))
    write_weights(tmp_path / "two", backwards, dict(reversed(METADATA.items())))
    assert (tmp_path / "a" / "one").read_bytes() == (tmp_path / "two").read_bytes()
    transposed = {"x": torch.arange(6.0).view(2, 3).t(), "y": torch.arange(6.0)[::2]}
    write_weights(tmp_path / "three", transposed, {})
    write_weights(tmp_path / "four", {name: tensor.contiguous() for name, tensor in transposed.items()}, {})
    assert (tmp_path / "three").read_bytes() == (tmp_path / "four").read_bytes()


def test_what_is_written_is_read(tmp_path):
    write_weights(tmp_path / "file.safetensors", tensors(), METADATA)
    found, metadata = read_weights(tmp_path / "file.safetensors")
    assert digest_tensors(found) == digest_tensors(tensors())
    assert metadata == json.loads(json.dumps(METADATA))


def test_shared_tensors_are_written_each(tmp_path):
    shared = torch.rand(4)
    write_weights(tmp_path / "f", {"a": shared, "b": shared, "c": shared[:2]}, {})
    found, _ = read_weights(tmp_path / "f")
    assert torch.equal(found["a"], found["b"])


def test_metadata_is_one_key_of_sorted_json(tmp_path):
    write_weights(tmp_path / "f.safetensors", tensors(), METADATA)
    with safe_open(tmp_path / "f.safetensors", framework="pt") as file:
        metadata = file.metadata()
    assert list(metadata) == ["deconfound"]
    assert metadata["deconfound"] == json.dumps(METADATA, sort_keys=True)


def test_state_dicts_of_torch_are_read(tmp_path):
    torch.save({"state_dict": tensors()}, tmp_path / "new.pt")
    torch.save(tensors(), tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    assert digest_tensors(read_weights(tmp_path / "new.pt")[0]["state_dict"]) == digest_tensors(tensors())
    assert digest_tensors(read_weights(tmp_path / "old.pth")[0]) == digest_tensors(tensors())


class Payload:
    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("form", ["zip", "legacy", "pickle"])
def test_a_malicious_pickle_is_refused_and_does_not_run(tmp_path, form):
    path = tmp_path / "evil.pt"
    content = {"weight": torch.zeros(2), "extra": Payload(tmp_path / "ran")}
    if form == "pickle":
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=form == "zip")
    with pytest.raises(InputError, match="pickle of objects that could run code, and is not opened"):
        read_weights(path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("content", "rule"),
    [
        (None, "a file of weights"),
        (b"", "EOFError"),
        (b"hello world" * 9, "intact file of tensors"),
        (b"PK\x03\x04 half a zip", "intact file of tensors"),
        (b"\x10\0\0\0\0\0\0\0{not json", "intact safetensors file"),
    ],
)
def test_files_that_are_no_weights(tmp_path, content, rule):
    path = tmp_path / "file"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=rule) as caught:
        read_weights(path)
    assert "\n" not in str(caught.value)


def test_a_tensor_is_no_state_dict(tmp_path):
    torch.save(torch.zeros(3), tmp_path / "t.pt")
    with pytest.raises(InputError, match="this file holds a Tensor"):
        read_weights(tmp_path / "t.pt")
    with pytest.raises(InputError, match="a file of weights"):
        read_weights(tmp_path)


def test_damaged_safetensors_are_one_line(tmp_path):
    write_weights(tmp_path / "f.safetensors", tensors(), METADATA)
    whole = (tmp_path / "f.safetensors").read_bytes()
    rng = random.Random(3)
    for length in [0, 1, 7, 8, 9, *rng.sample(range(10, len(whole)), 20)]:
        (tmp_path / "f.safetensors").write_bytes(whole[:length])
        with pytest.raises(InputError, match="intact safetensors file"):
            read_weights(tmp_path / "f.safetensors")


def test_digest_depends_on_names_types_shapes_and_values():
    base = {"a": torch.zeros(2, 3)}
    others = [
        {"b": torch.zeros(2, 3)},
        {"a": torch.zeros(3, 2)},
        {"a": torch.zeros(2, 3).double()},
        {"a": torch.ones(2, 3)},
        {"a": torch.zeros(2, 3), "b": torch.zeros(0)},
    ]
    digests = {digest_tensors(value) for value in (base, *others)}
    assert len(digests) == 1 + len(others)
    assert digest_tensors(base) == digest_tensors({"a": torch.zeros(3, 2).t()})
