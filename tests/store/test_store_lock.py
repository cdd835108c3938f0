"""Locks: one holder at a time, named; what a killed process leaves behind is no obstacle."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

import deconfound
from deconfound.errors import InputError
from deconfound.store import held
from deconfound.store.lock import NAME, holder

HOLD = (
    "import sys, time; from deconfound.store import held\nwith held(sys.argv[1]): print(1, flush=True); time.sleep(60)"
)


def test_one_at_a_time(tmp_path):
    folder = tmp_path / "deep" / "run"
    assert holder(folder) == ""
    with held(folder) as other:
        assert other == ""
        assert holder(folder) == f"process {os.getpid()} on {socket.gethostname()}"
        with held(folder) as second:
            assert second == f"process {os.getpid()} on {socket.gethostname()}"
        assert holder(folder) != ""  # who was refused has taken nothing away
    assert holder(folder) == ""
    assert list(folder.iterdir()) == []
    with pytest.raises(RuntimeError), held(folder):
        raise RuntimeError
    with held(folder) as again:
        assert again == ""


def test_a_killed_holder_leaves_nothing_in_the_way(tmp_path):
    environment = os.environ | {"PYTHONPATH": str(Path(deconfound.__file__).parents[1])}
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], env=environment, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout.readline() == b"1\n"
        with held(tmp_path) as other:
            assert other == f"process {process.pid} on {socket.gethostname()}"
        process.send_signal(signal.SIGKILL)
    assert (tmp_path / NAME).exists()
    assert holder(tmp_path) == ""
    with held(tmp_path) as other:
        assert other == ""


def test_a_place_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("x")
    with (
        pytest.raises(InputError, match=r"^out: got .* \(a file lies where a folder is needed\)"),
        held(tmp_path / "file"),
    ):
        pass
