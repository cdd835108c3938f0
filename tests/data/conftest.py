"""Small data sets on disk, and a cache of their own for the data library."""

from __future__ import annotations

import sys
import types
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


def picture(number: int, channels: int = 3, height: int = 8, width: int = 8) -> np.ndarray:
    """Pixels (H, W, C) or (H, W) that differ for every number."""
    shape = (height, width) if channels == 1 else (height, width, channels)
    return np.random.default_rng(number).integers(0, 256, shape, dtype=np.uint8)


@pytest.fixture
def make_folder(tmp_path):
    """Write an image folder: split -> class -> numbers; "" as split puts the classes at the top."""

    def write(layout: dict[str, dict[str, list[int]]], channels: int = 3, name: str = "pets") -> Path:
        for split, classes in layout.items():
            for label, numbers in classes.items():
                place = tmp_path / name / split / label
                place.mkdir(parents=True, exist_ok=True)
                for number in numbers:
                    Image.fromarray(picture(number, channels)).save(place / f"{number:03}.png")
        return tmp_path / name

    return write


@pytest.fixture
def pixels():
    return picture


@pytest.fixture
def function(monkeypatch):
    """Make ``returned:made`` a data name for what is given."""

    def install(result):
        module = types.ModuleType("returned")
        module.made = lambda: result
        monkeypatch.setitem(sys.modules, "returned", module)
        return "returned:made"

    return install
