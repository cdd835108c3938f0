"""``deconfound analyze RUN exposure``: on runs of CiiV, and what it says of others."""

from __future__ import annotations

import pytest

from deconfound.errors import InputError
from deconfound.recipes.analysing import Look, look_into, look_into_all
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
    assert record.consistency == pytest.approx(100.0)  # 0.1, ten times more at each of three stairs
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
