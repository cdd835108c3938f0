"""The commit of a record is that which the process began with; git that does not answer costs nothing else."""

from __future__ import annotations

import subprocess

import pytest

from deconfound.recipes import machine, training
from deconfound.recipes.training import train

SMALL = {"epochs": 1, "selection.keep": "last", "selection.size": 0}


@pytest.fixture
def fresh():
    machine.commit.cache_clear()
    yield
    machine.commit.cache_clear()


@pytest.mark.parametrize("error", [subprocess.TimeoutExpired("git", 20), FileNotFoundError("git")])
def test_without_an_answer_of_git_a_run_is_recorded(fresh, monkeypatch, tmp_path, error):
    def silent(*words, **options):
        raise error

    monkeypatch.setattr(machine.shutil, "which", lambda name: "/somewhere/git" if name == "git" else None)
    monkeypatch.setattr(machine.subprocess, "run", silent)
    made = train("standard", data="digits:train=64", out=tmp_path / "run", changes=SMALL)
    assert made.record.machine.commit == ""
    assert (tmp_path / "run" / "model.safetensors").is_file()


def test_the_commit_is_asked_for_before_the_work(fresh, monkeypatch):
    """What others commit while this trains is not what ran."""
    now = ["first"]
    monkeypatch.setattr(training, "commit", lambda: asked.append(now[0]))
    asked = []
    load = training.load_data

    def slow(*words, **options):
        now[0] = "second"
        return load(*words, **options)

    monkeypatch.setattr(training, "load_data", slow)
    train("standard", data="digits:train=64", changes=SMALL)
    assert asked == ["first"]
