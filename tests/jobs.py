"""What tests of whole jobs share: a folder's contents, small data sets by name, a monitor that remembers."""

from __future__ import annotations

import sys
import types
from dataclasses import replace

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


def short_tour(tour):
    """The demo's tour with all its stops, each as short as it can be."""
    few = {"epochs": 1, "steps": 1, "selection.steps": 1}
    more = {
        "ciiv": {"sampler.loops": 2, "sampler.samples": 1},
        "cafe/adv": {"objective.inversion_steps": 1, "stages.amr.epochs": 1, "stages.amr.steps": 1},
    }
    looks = {"pictures": {"n": 20, "steps": 2}, "instruments": {"n": 100}}

    def shortened(chapter):
        analyses = {kind: looks.get(kind, {"n": 20}) for kind in chapter.analyses}
        return replace(chapter, changes=few | more.get(chapter.recipe, {}), analyses=analyses)

    return replace(tour, chapters=tuple(map(shortened, tour.chapters)), n=2, n_of_random=2, n_of_quick=8)
