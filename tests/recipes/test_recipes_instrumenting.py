"""``deconfound analyze RUN instruments``."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from deconfound.errors import InputError
from deconfound.models import split_model
from deconfound.recipes.analysing import Look, look_into
from deconfound.recipes.cutting import cut_run
from deconfound.recipes.instrumenting import components_of
from deconfound.recipes.loading import load_run
from deconfound.recipes.training import train
from deconfound.records import InstrumentsRecord
from jobs import contents, images


def look(run, **changes):
    return Look(**{"run": str(run), "kind": "instruments", "n": 120, "treatments": 2, "instruments": 4} | changes)


@pytest.fixture(scope="module")
def done(trained, tmp_path_factory):
    return look_into(look(trained.path), out=tmp_path_factory.mktemp("analysis"))


def test_record_and_files(done):
    record, files = done
    assert [path.name for path in files] == ["instruments.json", "instruments.csv", "instruments.svg"]
    assert InstrumentsRecord.read(files[0]) == record
    assert (record.n, record.threat.eps, record.attack.name, record.instruments) == (120, 0.1, "pgd-20", 4)
    assert record.attack.settings["keep"] == "last"
    assert len(record.first_stages) == len(record.effects) == 2
    assert 0 < record.treatment_share < 1
    assert record.dimension == 100
    assert record.components_r2 < record.features_r2 <= 1
    assert 0 <= record.wooldridge.p_value <= 1


def test_the_cut_is_that_of_the_network(trained, done):
    record, _ = done
    loaded = load_run(trained.path)
    parts = cut_run("run", loaded, None)
    split = split_model(loaded.model)
    pictures = images(5)
    with torch.no_grad():
        assert torch.equal(parts.features(pictures), split.features(pictures).flatten(1))
        assert torch.equal(parts.head(parts.features(pictures)), loaded.model(pictures))
    assert all(np.isfinite([effect.ols.value for effect in record.effects]))


def test_batch_size_does_not_matter(trained, done, tmp_path):
    again, _ = look_into(look(trained.path, batch_size=17), out=tmp_path)
    for first, second in zip(done[0].effects, again.effects, strict=True):
        assert second.tsls.value == pytest.approx(first.tsls.value, rel=1e-3, abs=1e-4)


def test_at_a_named_layer_whose_values_are_maps(trained, tmp_path):
    loaded = load_run(trained.path)
    name = next(name for name, module in loaded.model.named_modules() if isinstance(module, torch.nn.Conv2d))
    record, _ = look_into(look(trained.path, layer=name), out=tmp_path)
    assert record.layer == name
    assert record.dimension > 100


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"layer": "nowhere"}, r"^layer: got 'nowhere'; expected one of "),
        ({"instruments": 2}, r"^instruments: got 2; expected more than the 2 treatments"),
        ({"treatments": 0}, r"^treatments: got 0"),
        ({"n": 20}, r"^n: got 20; expected at least 27 images"),
        ({"treatments": 101, "instruments": 102, "n": 360}, r"^treatments: got 101; expected at most "),
    ],
)
def test_bad_settings(trained, tmp_path, changes, match):
    before = contents(trained.path)
    with pytest.raises(InputError, match=match):
        look_into(look(trained.path, **changes), out=tmp_path / "new")
    assert contents(trained.path) == before
    assert not (tmp_path / "new").exists()


def test_by_default_there_are_twice_as_many_instruments(trained, tmp_path):
    record, _ = look_into(look(trained.path, treatments=None, instruments=None), out=tmp_path)
    assert (len(record.first_stages), record.instruments) == (4, 8)
    assert components_of(look(trained.path, treatments=3, instruments=None)) == (3, 6)
    assert components_of(look(trained.path, treatments=3, instruments=9)) == (3, 9)


def test_more_than_fits_into_memory(trained, tmp_path, monkeypatch):
    monkeypatch.setattr("deconfound.analysis.instruments.LARGEST", 5000)
    with pytest.raises(InputError, match=r"^n: got 120; expected at most 50 images with 100 features at this cut"):
        look_into(look(trained.path), out=tmp_path)


def test_a_random_network_has_no_single_feature(tmp_path):
    path = train("ciiv", out=tmp_path / "c", changes={"epochs": 1, "sampler.loops": 2}).path
    with pytest.raises(InputError, match=r"^kind: got 'instruments'; expected a kind that fits the run: .*not CiiV"):
        look_into(look(path))
    with pytest.raises(InputError, match=r"^layer: got 'inner'; expected none"):
        look_into(look(path, layer="inner"))
