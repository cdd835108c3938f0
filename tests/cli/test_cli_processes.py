"""The command line as a process: what starts fast, kills, pipes and completion."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import deconfound
from deconfound.records import EvaluationRecord

COMMAND = [sys.executable, "-m", "deconfound"]
ENVIRONMENT = os.environ | {"PYTHONPATH": str(Path(deconfound.__file__).parents[1]), "OMP_NUM_THREADS": "1"}


def test_help_does_not_wait_for_torch():
    script = (
        "import sys; from deconfound.cli import main; codes = [main(w) for w in ([], ['train', '--help'], ['nope'])];"
        "sys.exit(codes != [0, 0, 2] or bool({'torch', 'numpy', 'datasets'} & sys.modules.keys()))"
    )
    subprocess.run([sys.executable, "-c", script], env=ENVIRONMENT, check=True, capture_output=True)


@pytest.mark.parametrize(
    ("words", "completed"),
    [
        ("deconfound ev", "evaluate"),
        ("deconfound train pgd-at --pre", "--precision"),
    ],
)
def test_completion(words, completed):
    asked = {"_DECONFOUND_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(len(words.split()) - 1)}
    found = subprocess.run(COMMAND, env=ENVIRONMENT | asked, capture_output=True, text=True, check=True)
    assert found.stdout.split() == [completed]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(cli, monkeypatch, shell):
    monkeypatch.setattr("shellingham.detect_shell", lambda: (shell, f"/bin/{shell}"))
    code, out, _ = cli("--show-completion")
    assert code == 0
    assert "_DECONFOUND_COMPLETE" in out


def test_a_full_standard_output_is_one_line():
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    with Path("/dev/full").open("wb") as full:
        found = subprocess.run(
            [*COMMAND, "list", "attacks"], env=ENVIRONMENT, stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert (found.returncode, found.stderr) == (2, "error: system: No space left on device\n")


def test_a_reader_that_leaves_is_no_error():
    reading, writing = os.pipe()
    os.close(reading)
    found = subprocess.run(
        [*COMMAND, "list", "data"], env=ENVIRONMENT, stdout=writing, stderr=subprocess.PIPE, text=True, check=False
    )
    os.close(writing)
    assert found.stderr == ""
    assert found.returncode in (0, 1)


def test_an_evaluation_killed_in_the_middle_goes_on(cli, workspace, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(workspace / "r", "r")
    words = ["evaluate", "r", "--suite", "quick", "-n", "100", "--batch-size", "10", "--quiet"]
    assert cli(*words, "--out", "whole.json").code == 0

    record = Path("r/evaluate-quick-linf-0.1-n100.json")
    journal = record.with_name(record.name + ".journal")
    process = subprocess.Popen(
        [*COMMAND, *words], env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    end = time.monotonic() + 60
    while not journal.exists() or journal.read_text().count("\n") < 13:  # ten batches of clean images, then attacks
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.002)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert not record.exists()
    assert cli(*words).code == 0
    assert not journal.exists()

    whole, resumed = EvaluationRecord.read("whole.json"), EvaluationRecord.read(record)
    for field in ("outcomes", "robust_accuracy", "clean_accuracy", "curve", "gallery", "forwards", "backwards", "n"):
        assert getattr(resumed, field) == getattr(whole, field), field
    assert resumed.verdict == whole.verdict
