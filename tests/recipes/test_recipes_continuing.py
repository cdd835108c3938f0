"""Continuing a run: what is left alone, what is refused, and that the bytes are those of the uninterrupted run."""

from __future__ import annotations

import os
import re
import shutil
import signal

import pytest
import torch

import deconfound
from deconfound.errors import InputError
from deconfound.recipes.stopping import Stopped
from deconfound.recipes.training import train
from deconfound.records import TrainingRecord
from jobs import WEIGHTS, Told, contents, data_module, images, split


class TestResume:
    @pytest.fixture
    def run(self, trained, tmp_path):
        return shutil.copytree(trained.path, tmp_path / "run")

    @pytest.mark.parametrize("kept", [True, False], ids=["with checkpoints", "without checkpoints"])
    def test_a_finished_run_is_left_as_it_is(self, run, tiny, kept):
        for path in () if kept else run.glob("*.ckpt"):  # to save space
            path.unlink()
        before, told = contents(run), Told()
        found = train("pgd-at", out=run, changes=tiny, resume=True, monitor=told)
        assert contents(run) == before
        assert told.messages == ["finished before; nothing is left to do"]
        assert found.record == TrainingRecord.read(run / "record.json")
        assert torch.equal(found.model(images()), deconfound.load(run)(images()))

    def test_killed_after_the_last_checkpoint(self, run, tiny, trained):
        """Trained to the end, but the results were not written yet."""
        for name in (*WEIGHTS, "record.json"):
            (run / name).unlink()
        found = train("pgd-at", out=run, changes=tiny, resume=True)
        assert found.record.resumed == 1
        for name in (*WEIGHTS, "metrics.jsonl"):
            assert (run / name).read_bytes() == (trained.path / name).read_bytes()

    def test_without_a_checkpoint_it_starts_from_the_beginning(self, run, tiny, trained):
        for path in run.iterdir():
            if path.name not in ("recipe.yaml", "metrics.jsonl", "tensorboard"):
                path.unlink()
        (run / "metrics.jsonl").write_text('{"epoch": 0.0, "loss": 5}\n{"epo')
        found = train("pgd-at", out=run, changes=tiny, resume=True)
        assert found.record.resumed == 0
        for name in (*WEIGHTS, "metrics.jsonl"):
            assert (run / name).read_bytes() == (trained.path / name).read_bytes()

    def test_what_cannot_be_removed_is_one_line(self, run, tiny, half):
        for name in ("last.ckpt", "previous.ckpt", "metrics.jsonl"):
            (run / name).unlink(missing_ok=True)
        (run / "metrics.jsonl").mkdir()
        self.refused(run, r"^out: got '.*metrics.jsonl'; expected a file that can be removed \(", changes=tiny)

    def test_without_a_run_it_starts_one(self, tiny, tmp_path, trained):
        train("pgd-at", out=tmp_path / "new", changes=tiny, resume=True)
        for name in WEIGHTS:
            assert (tmp_path / "new" / name).read_bytes() == (trained.path / name).read_bytes()

    @pytest.fixture
    def half(self, run):
        (run / "record.json").unlink()
        return run

    def refused(self, run, match, **arguments):
        before = contents(run)
        with pytest.raises(InputError, match=match) as caught:
            train(**{"recipe": "pgd-at", "out": run, "resume": True} | arguments)
        assert "\n" not in str(caught.value)
        assert contents(run) == before

    def test_another_recipe_is_refused_with_the_difference_and_a_way_out(self, run, half, tiny):
        way = re.escape(f"continue with: deconfound train {run}/recipe.yaml --out {run} --resume")
        line = f"^resume: got 'lr=0.1'; expected .* started with: lr=0.003; {way}$"
        self.refused(run, line, changes=tiny | {"lr": 0.1})
        self.refused(run, r"epochs=3, seed=1.*and \d other settings", recipe="trades", changes={"epochs": 3, "seed": 1})

    def test_other_data_are_refused(self, run, tiny, monkeypatch, half):
        pixels, labels = split(classes=10)
        name = data_module(monkeypatch, "recipes_other", train=(pixels, labels))
        changes = tiny | {"family": "digits"}
        self.refused(run, "a checkpoint of this recipe and these data", data=name, changes=changes)

    def test_other_data_are_refused_by_a_finished_run_too(self, run, tiny, monkeypatch):
        pixels, labels = split(classes=10)
        name = data_module(monkeypatch, "recipes_other", train=(pixels, labels))
        changes = tiny | {"family": "digits"}
        self.refused(run, "the data that the run was trained on, digits", data=name, changes=changes)

    def test_a_run_in_the_way_is_refused(self, run, tiny):
        self.refused(run, "--resume continues it, --overwrite replaces it", changes=tiny, resume=False)
        self.refused(run, "either resume or overwrite, not both", changes=tiny, overwrite=True)

    def test_overwriting_forgets_the_old_run(self, run):
        (run / "evaluate-quick-linf-0.1.json").write_text("of the old network")
        found = train("standard", out=run, changes={"epochs": 1}, overwrite=True)
        assert found.record.resumed == 0
        assert len(found.record.history) == 1
        assert not (run / "evaluate-quick-linf-0.1.json").exists()
        assert len((run / "metrics.jsonl").read_text().splitlines()) == 1


def test_float64_and_averaging_resume_to_the_byte(tmp_path):
    """Cut by a request to stop before the first step."""
    changes = {"epochs": 2, "precision": "64-true", "averaging": {"name": "ema", "decay": 0.9}, "seed": 4}

    class Impatient(Told):
        def start(self, task, total, done=0):
            os.kill(os.getpid(), signal.SIGTERM)

    whole = train("standard", out=tmp_path / "whole", changes=changes)
    with pytest.raises(Stopped, match="stopped in epoch 1 of 2, saved; continue with: deconfound train") as caught:
        train("standard", out=tmp_path / "cut", changes=changes, monitor=Impatient())
    assert caught.value.signal == signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    again = train("standard", out=tmp_path / "cut", changes=changes, resume=True)
    assert again.record.resumed == 1
    for name in (*WEIGHTS, "metrics.jsonl"):
        assert (again.path / name).read_bytes() == (whole.path / name).read_bytes()
