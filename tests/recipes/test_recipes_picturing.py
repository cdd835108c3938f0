"""``deconfound analyze RUN pictures``."""

from __future__ import annotations

import pytest
import torch

from deconfound.errors import InputError
from deconfound.recipes import picturing
from deconfound.recipes.analysing import Look, look_into
from deconfound.records import PicturesRecord


def look(run, **changes):
    return Look(**{"run": str(run), "kind": "pictures", "n": 60, "steps": 20} | changes)


def test_record_and_files(trained, tmp_path):
    record, files = look_into(look(trained.path), out=tmp_path)
    assert [path.name for path in files] == ["pictures.json", "pictures.csv", "pictures.png"]
    assert PicturesRecord.read(files[0]) == record
    assert (record.n, record.optimisation["steps"], record.attack.name) == (6, 20, "pgd-20")
    assert len({image.label for image in record.images}) == 6
    assert sum(path.stat().st_size for path in files) < 200_000


def test_methods_may_add_kinds_of_features(trained, tmp_path, monkeypatch):
    def further(look, loaded, recipe, parts):
        assert parts.head(torch.zeros(1, *parts.features(torch.zeros(1, *loaded.shape)).shape[1:])).shape == (1, 10)
        return {"middle": lambda natural, adversarial: (natural + adversarial) / 2}

    monkeypatch.setattr(picturing, "FURTHER", (further,))
    record, _ = look_into(look(trained.path, n=5), out=tmp_path)
    assert [picture.kind for picture in record.images[0].features] == ["natural", "adversarial", "middle"]


def test_settings(trained, tmp_path):
    with pytest.raises(InputError, match=r"^steps: got 0"):
        look(trained.path, steps=0)
    with pytest.raises(InputError, match=r"^layer: got 'nowhere'; expected one of"):
        look_into(look(trained.path, layer="nowhere"), out=tmp_path)
    with pytest.raises(InputError, match=r"^steps: got 3; expected none with kind style; it belongs to pictures"):
        look(trained.path, kind="style", steps=3)
