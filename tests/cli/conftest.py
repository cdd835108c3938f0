"""The command line in this process, in a folder full of things to stumble over."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from deconfound.cli import main
from deconfound.records import EvaluationRecord

DATA = """
import torch


def right(count=40, channels=1, classes=10):
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(count, channels, 16, 16, generator=generator)
    return {split: (images.clone(), torch.arange(count) % classes) for split in ("train", "test")}


def changed(images=lambda x: x, labels=lambda y: y):
    return {split: (images(x), labels(y)) for split, (x, y) in right().items()}


def levels(): return changed(lambda x: x * 255)
def normalised(): return changed(lambda x: (x - 0.5) / 0.3)
def gap(): return changed(lambda x: x.index_fill(0, torch.tensor(3), torch.nan))
def colour(): return right(channels=3)
def negative(): return changed(labels=lambda y: y - 1)
def beyond(): return {k: (x, y, [str(i) for i in range(9)]) for k, (x, y) in right().items()}
def nothing(): return changed(lambda x: x[:0], lambda y: y[:0])
def only_train(): return {"train": right()["train"]}
def only_test(): return {"test": right()["test"]}
def few_classes(): return right(classes=4)
def broken(): raise RuntimeError("two\\nlines")


def net(classes, channels, size):
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(channels * size * size, classes))
"""


class Result(NamedTuple):
    code: int
    out: str
    err: str


class Payload:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


def contents(folder):
    return {
        str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns) if path.is_file() else None
        for path in sorted(folder.rglob("*"))
        if "__pycache__" not in path.parts
    }


@pytest.fixture
def cli(capsys):
    """``cli("train", "standard", ...)`` -> exit code, standard output, standard error."""

    def call(*words):
        capsys.readouterr()
        code = main([str(word) for word in words])
        return Result(code, *capsys.readouterr())

    return call


@pytest.fixture
def refused(cli, tmp_path, monkeypatch, workspace):
    """The line of an error; exactly one line, nothing on standard output, nothing written."""
    monkeypatch.chdir(workspace)

    def call(*words, code=2):
        before = contents(workspace)
        result = cli(*words)
        assert result.code == code, result
        assert result.out == ""
        lines = result.err.splitlines()
        assert len(lines) == 1, result.err
        assert result.err.endswith("\n")
        assert lines[0].startswith("error: ")
        assert contents(workspace) == before
        return lines[0].removeprefix("error: ")

    return call


@pytest.fixture(scope="session")
def workspace(tmp_path_factory):
    """A run ``r`` (standard, one epoch, judged on 10 images), and a collection of bad files; not to be written to."""
    folder = tmp_path_factory.mktemp("workspace")
    here = Path.cwd()
    os.chdir(folder)
    try:
        assert main(["train", "standard", "--out", "r", "--set", "epochs=1", "--quiet"]) == 0
        assert main(["evaluate", "r", "--suite", "quick", "-n", "10", "--quiet"]) == 0
        _fill()
    finally:
        os.chdir(here)
    return folder


def _fill():
    Path("cli_data.py").write_text(DATA)
    Path("file").write_text("x")
    Path("empty").mkdir()
    Path("foreign").mkdir()
    Path("foreign/thesis.tex").write_text("x")
    torch.save({"weight": Payload(str(Path("ran").resolve()))}, "evil.pt")
    torch.save({"weight": torch.zeros(1)}, "other.pt")
    Path("junk.pt").write_bytes(b"hello world" * 9)
    cut = Path("r/model.safetensors").read_bytes()[:1000]
    Path("cut.safetensors").write_bytes(cut)
    Path("broken.yaml").write_text("a: [b")
    Path("nameless.yaml").write_text("epochs: 1\n")
    record = Path("r/evaluate-quick-linf-0.1-n10.json").read_text()
    Path("newer.json").write_text(record.replace('"schema_version": 1', '"schema_version": 99'))
    Path("seed.json").write_text(record.replace('"seed": 0', '"seed": 1'))
    digest = EvaluationRecord.from_json(record).data_digest
    Path("elsewhere.json").write_text(record.replace(digest, digest[::-1]))
    Path("results.json").write_text('{"kind": "results", "evaluations": [{"kind": 1}]}')
    half = shutil.copytree("r", "half")
    Path(half, "record.json").unlink()


@pytest.fixture(scope="session")
def corrupt_images(workspace):
    from PIL import Image

    for number in range(24):
        place = workspace / "pictures" / ("train", "test")[number % 2] / "ab"[number // 2 % 2] / f"{number}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (16, 16), number * 10).save(place)
    (workspace / "pictures" / "train" / "a" / "0.png").write_bytes(b"\x89PNG\r\n\x1a\nhalf")
