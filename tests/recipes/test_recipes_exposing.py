"""``deconfound analyze RUN exposure``: on runs of CiiV, and what it says of others."""

from __future__ import annotations

import pytest

from deconfound.errors import InputError
from deconfound.recipes.analysing import Look, look_into, look_into_all
from deconfound.recipes.exposing import final_consistency
from deconfound.recipes.resolve import read_spec, resolve
from deconfound.recipes.training import train
from deconfound.records import ExposureRecord


@pytest.fixture(scope="module")
def ciiv(tmp_path_factory):
    """One epoch with three looks; not to be written to."""
    return train("ciiv", out=tmp_path_factory.mktemp("runs") / "c", changes={"epochs": 1, "sampler.loops": 3}).path


def look(run, **changes):
    return Look(**{"run": str(run), "kind": "exposure", "n": 40} | changes)


def test_record_and_files(ciiv, tmp_path):
    record, files = look_into(look(ciiv), out=tmp_path)
    assert [path.name for path in files] == ["exposure.json", "exposure.csv", "exposure.svg", "exposure-views.png"]
    assert ExposureRecord.read(files[0]) == record
    assert (record.n, record.policy, len(record.centres)) == (40, "grid", 3)
    assert record.consistency == pytest.approx(0.1)  # a single epoch begins below every stair
    assert len(record.looks) == 3
    assert sum(path.stat().st_size for path in files) < 300_000


def test_all_takes_what_fits_a_random_network(ciiv, tmp_path):
    found = look_into_all(look(ciiv, kind="all"), out=tmp_path)
    assert "exposure" in found.found
    assert "not CiiV" in found.skipped["instruments"]
    assert "style branch" in found.skipped["style"]


def test_a_run_that_does_not_look_through_a_sampler(trained):
    with pytest.raises(InputError, match=r"^kind: got 'exposure'; expected a kind that fits the run: .*key sampler"):
        look_into(look(trained.path))


@pytest.mark.parametrize(("epochs", "weight"), [(1, 0.1), (2, 10.0), (3, 10.0), (4, 100.0), (110, 100.0)])
def test_the_weight_at_the_end_counts_the_stairs_that_the_last_epoch_has_reached(epochs, weight):
    """Stairs at 25, 50 and 75 of 110; the last epoch begins at 0, 1/2, 2/3, 3/4 and 109/110."""
    recipe = resolve(read_spec("ciiv"), data="x", family="cifar", changes={"epochs": epochs})
    assert final_consistency(recipe) == pytest.approx(weight)


def test_there_is_no_weight_without_views():
    assert final_consistency(resolve(read_spec("pgd-at"), data="x", family="cifar")) == 0
