"""Real kills: SIGKILL and SIGTERM to a training in a process of its own, then resumed to the same bytes."""

from __future__ import annotations

import os
import random
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import deconfound
from deconfound.cli import main
from deconfound.recipes.stopping import Stopped
from deconfound.recipes.training import train

SOURCE = str(Path(deconfound.__file__).parents[1])
COMPARED = ("model.safetensors", "players.safetensors", "metrics.jsonl", "recipe.yaml")
CHANGES = {"epochs": 6, "steps": 2, "selection.steps": 1}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The uninterrupted run."""
    return train("pgd-at", out=tmp_path_factory.mktemp("whole") / "run", changes=CHANGES).path


def start(run, *more):
    words = [f"--set={key}={value}" for key, value in CHANGES.items()]
    command = [sys.executable, "-m", "deconfound", "train", "pgd-at", "--out", str(run), *words, *more]
    environment = os.environ | {"PYTHONPATH": SOURCE, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def changed(path):
    return path.stat().st_mtime_ns if path.exists() else 0


def wait_for(process, path, before, seconds=60):
    """Until the file is written anew."""
    end = time.monotonic() + seconds
    while changed(path) == before:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end, f"no {path.name} in {seconds} s"
        time.sleep(0.002)


def assert_same(run, whole):
    for name in COMPARED:
        assert (run / name).read_bytes() == (whole / name).read_bytes(), name


def resume(run):
    return train("pgd-at", out=run, changes=CHANGES, resume=True)


def test_killed_three_times_it_ends_in_the_same_bytes(whole, tmp_path):
    run, rng = tmp_path / "run", random.Random(20)
    for kill in range(3):
        before = changed(run / "last.ckpt")
        process = start(run, "--checkpoint-seconds", "0", *(["--resume"] if kill else []))
        wait_for(process, run / "last.ckpt", before)
        time.sleep(rng.uniform(0, 0.15))
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        assert not (run / "record.json").exists()
    assert resume(run).record.resumed == 3
    assert_same(run, whole)


def test_a_polite_end_saves_and_says_how_to_continue(whole, tmp_path, capsys):
    run = tmp_path / "a run"
    process = start(run, "--quiet", "--checkpoint-seconds", "1000")
    wait_for(process, run / "metrics.jsonl", 0)
    process.terminate()
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    assert output == ""
    (line,) = errors.splitlines()
    assert line.startswith("stopped in epoch ")
    command = shlex.split(line.partition("continue with: ")[2])
    assert command[:2] == ["deconfound", "train"]
    assert (run / "last.ckpt").exists()
    assert not (run / "model.safetensors").exists()
    assert main(command[1:]) == 0
    assert "Judge it: deconfound evaluate" in capsys.readouterr().out
    assert_same(run, whole)


class StopsLater:
    """Asks to stop at its n-th update."""

    def __init__(self, updates):
        self.left = updates

    def start(self, task, total, done=0):
        pass

    def update(self, done, values):
        self.left -= 1
        if not self.left:
            os.kill(os.getpid(), signal.SIGINT)

    def message(self, text):
        pass

    def finish(self):
        pass


@pytest.fixture(scope="module")
def half(tmp_path_factory):
    """Stopped half-way, with checkpoints of two different steps, so that falling back costs one that is done again."""
    run = tmp_path_factory.mktemp("half") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("deconfound.training.loop.TELL_EVERY", 0)
        with pytest.raises(Stopped) as caught:
            train("pgd-at", out=run, changes=CHANGES, checkpoint_seconds=0, monitor=StopsLater(30))
    assert caught.value.signal == signal.SIGINT
    assert str(caught.value).startswith("stopped in epoch 2 of 6, saved")
    return run


class TestDamagedCheckpoints:
    @pytest.fixture
    def run(self, half, tmp_path):
        return shutil.copytree(half, tmp_path / "run")

    def damage(self, path):
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 4
        path.write_bytes(content)

    def test_intact(self, run, whole):
        resume(run)
        assert_same(run, whole)

    def test_the_previous_one_serves_as_well(self, run, whole, caplog):
        self.damage(run / "last.ckpt")
        resume(run)
        (record,) = caplog.records
        assert record.getMessage() == (
            "damaged checkpoint last.ckpt: its content does not match its digest; continuing from previous.ckpt"
        )
        assert_same(run, whole)

    def test_both_damaged_is_refused(self, run, capsys):
        for name in ("last.ckpt", "previous.ckpt"):
            self.damage(run / name)
        before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
        words = [f"--set={key}={value}" for key, value in CHANGES.items()]
        assert main(["train", "pgd-at", "--out", str(run), "--resume", "--quiet", *words]) == 2
        printed = capsys.readouterr()
        assert printed.out == ""
        (line,) = printed.err.splitlines()
        assert line.startswith("error: resume: got ")
        assert line.endswith("--overwrite starts again")
        assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
