"""What tests of whole jobs share: a folder's contents, small data sets by name, a monitor that remembers."""

from __future__ import annotations

import sys
import types

import torch

from deconfound.data import load

WEIGHTS = ("model.safetensors", "players.safetensors")


def contents(folder):
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def images(count=32):
    return load("digits").test.images[:count].float() / 255


class Told:
    """A monitor that remembers."""

    def __init__(self):
        self.messages, self.started, self.values = [], [], []

    def start(self, task, total, done=0):
        self.started.append((task, total, done))

    def update(self, done, values):
        self.values.append((done, dict(values)))

    def message(self, text):
        self.messages.append(text)

    def finish(self):
        pass


def data_module(monkeypatch, name, **splits):
    module = types.ModuleType(name)
    module.make = lambda: splits
    monkeypatch.setitem(sys.modules, name, module)
    return f"{name}:make"


def split(count=40, classes=4, shape=(1, 16, 16), seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, *shape, generator=generator), torch.arange(count) % classes
