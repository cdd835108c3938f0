"""The demo from end to end, with short trainings."""

from __future__ import annotations

import functools
import json

import pytest

from deconfound.errors import InputError
from deconfound.recipes import demo as job
from deconfound.recipes.targets import Target
from deconfound.recipes.training import train
from deconfound.records import EvaluationRecord, TrainingRecord


@pytest.fixture(autouse=True)
def _short(monkeypatch):
    changes = {"epochs": 1, "steps": 1, "selection.steps": 1}

    def short(name, **settings):
        few = {"sampler.loops": 2, "sampler.samples": 1} if name == "ciiv" else {}
        return train(name, changes=changes | few, **settings)

    monkeypatch.setattr(job, "train", short)
    monkeypatch.setattr(job, "Target", functools.partial(Target, n=16))


def test_from_end_to_end_and_again(tmp_path, monkeypatch):
    out = tmp_path / "demo"
    found = job.demo(out)
    assert {path.name for path in out.iterdir()} == {"runs", "results.json", "report.html"}
    defences = [record.defence for record in found.evaluations]
    assert defences == [name for name in job.STORY if name in defences]
    assert {"standard", "pgd-at"} <= set(defences)
    results = json.loads((out / "results.json").read_text())
    assert results["kind"] == "results"
    read = [EvaluationRecord.from_json(json.dumps(part)) for part in results["evaluations"]]
    assert tuple(read) == found.evaluations
    assert all(record.curve and record.gallery and record.verdict.checks for record in read)
    for name in defences:
        assert TrainingRecord.read(out / "runs" / name / "record.json") in found.trainings
    page = (out / "report.html").read_text()
    assert all(name in page for name in defences)

    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    with pytest.raises(InputError, match="a demo lies here \\(--overwrite replaces it\\)"):
        job.demo(out)
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before

    monkeypatch.setattr(job, "STORY", job.STORY[:2])  # the others would be the same for longer
    again = job.demo(out, overwrite=True)
    assert [r.model_digest for r in again.evaluations] == [r.model_digest for r in found.evaluations[:2]]


def test_an_interrupted_demo_can_be_replaced(tmp_path, monkeypatch):
    monkeypatch.setattr(job, "STORY", job.STORY[:2])
    train("standard", out=tmp_path / "demo" / "runs" / "standard", changes={"epochs": 1})
    with pytest.raises(InputError, match="a demo lies here"):
        job.demo(tmp_path / "demo")
    job.demo(tmp_path / "demo", overwrite=True)
    assert (tmp_path / "demo" / "results.json").exists()


@pytest.mark.parametrize("overwrite", [True, False])
def test_other_content_is_left_alone(tmp_path, overwrite):
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(InputError, match="this one holds something else"):
        job.demo(tmp_path, overwrite=overwrite)
    with pytest.raises(InputError, match="a file of this name exists"):
        job.demo(tmp_path / "thesis.tex", overwrite=overwrite)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
