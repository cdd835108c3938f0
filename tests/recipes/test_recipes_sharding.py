"""Several processes judge as one does, by gloo and from the command line; killed, they are continued by others."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import two_judges
from deconfound.recipes.crew import FabricCrew
from deconfound.recipes.evaluating import Judging
from deconfound.recipes.targets import Target, evaluate_target
from deconfound.records import EvaluationRecord
from judged import untimed

TESTS = Path(__file__).parents[1]
ENVIRONMENT = os.environ | {
    "PYTHONPATH": os.pathsep.join([str(TESTS.parent / "src"), str(TESTS)]),
    "OMP_NUM_THREADS": "1",
    "GLOO_SOCKET_IFNAME": "lo",
}


def ended(command, folder, seconds=150):
    """The exit code and what was printed; a command that hangs is ended with all its processes."""
    output = folder / "output.txt"
    with output.open("w") as stream:
        launched = subprocess.Popen(
            command, env=ENVIRONMENT, stdout=stream, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            code = launched.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            os.killpg(launched.pid, signal.SIGKILL)
            code = launched.wait()
    return code, output.read_text()


@pytest.fixture(scope="module")
def whole():
    """The records of one process."""
    return {suite: untimed(two_judges.record(suite)) for suite in two_judges.SUITES}


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """What each of two processes found, by gloo over the loopback interface."""
    folder = tmp_path_factory.mktemp("ranks")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    launcher = ["torch.distributed.run", "--nproc_per_node", "2", "--master_addr", "127.0.0.1", "--master_port", port]
    code, output = ended([sys.executable, "-m", *launcher, two_judges.__file__, str(folder)], folder)
    assert code == 0, output[-4000:]
    names = (*two_judges.SUITES, "failure")
    return [{name: torch.load(folder / f"{rank}-{name}", weights_only=True) for name in names} for rank in range(2)]


class TestTwoProcesses:
    @pytest.mark.parametrize("suite", two_judges.SUITES)
    def test_both_return_the_record_of_one(self, ranks, whole, suite):
        first, second = (rank[suite] for rank in ranks)
        assert first == second
        assert first.keys() == whole[suite].keys()
        for key, value in whole[suite].items():
            assert first[key] == value, key

    def test_the_record_has_everything(self, whole):
        fast = whole["fast"]
        assert 0 < fast["robust_accuracy"] < fast["clean_accuracy"] < 1
        assert fast["audit"]["survivors"] > fast["audit"]["sampled"] >= 6
        assert [column["name"] for column in fast["columns"]] == ["pgd-3", "l2", "all of them"]
        assert len(fast["curve"]) > 5
        assert len(fast["verdict"]["checks"]) > 10
        assert fast["gallery"]
        assert len(whole["rand"]["spread"]["robust"]) == 5

    def test_a_failure_of_one_is_raised_by_both(self, ranks):
        assert [rank["failure"] for rank in ranks] == ["RuntimeError: Odd: planted", "Odd: planted"]


def test_processes_wait_for_each_other_by_gloo_for_days(monkeypatch):
    made = []
    monkeypatch.setattr("torch.distributed.new_group", lambda **settings: made.append(settings))
    FabricCrew(SimpleNamespace(global_rank=0, world_size=1))
    assert made == []
    FabricCrew(SimpleNamespace(global_rank=0, world_size=8))
    assert made[0]["backend"] == "gloo"
    assert made[0]["timeout"] > timedelta(days=7)


def journals(folder):
    return sorted(folder.glob("*.journal*"))


COMMAND = ["evaluate", "--suite", "quick", "-n", "36", "--batch-size", "6", "--device", "cpu", "--quiet"]
NAME = "evaluate-quick-linf-0.1-n36.json"


def in_process(run, **arguments):
    judging = Judging(suite="quick", batch_size=6)
    return evaluate_target(Target(target=str(run), n=36, device="cpu"), judging, **arguments)[0]


class Cut(Exception):
    """Stands for a kill."""


class CutAfter:
    """A monitor that ends the evaluation at its n-th update."""

    def __init__(self, updates):
        self.left = updates

    def start(self, task, total, done=0): ...

    def update(self, done, values):
        self.left -= 1
        if not self.left:
            raise Cut

    def message(self, text): ...

    def finish(self): ...


class TestCommandLine:
    """``deconfound evaluate RUN --devices 2 --device cpu``."""

    @pytest.fixture
    def run(self, trained, tmp_path):
        return shutil.copytree(trained.path, tmp_path / "run")

    def test_two_devices_go_on_with_what_one_began_and_leave_one_record(self, run, trained, tmp_path):
        whole = in_process(run, out=tmp_path / "whole.json")
        with pytest.raises(Cut):
            in_process(run, monitor=CutAfter(13))
        (journal,) = journals(run)
        begun = len(journal.read_text().splitlines())
        command = [sys.executable, "-m", "deconfound", *COMMAND, str(run), "--devices", "2", "--json"]
        code, printed = ended(command, tmp_path)
        assert code == 0, printed
        assert begun == 14
        assert journals(run) == []
        text = (run / NAME).read_text()
        assert printed.count('"kind": "evaluation"') == 1
        assert text in printed
        record = EvaluationRecord.from_json(text)
        assert untimed(record) == untimed(whole)
        assert any(note.startswith("2 processes shared the work") for note in record.notes)

    def test_one_goes_on_with_what_two_devices_had_when_they_were_killed(self, run, tmp_path):
        whole = in_process(run, out=tmp_path / "whole.json")
        command = [sys.executable, "-m", "deconfound", *COMMAND, str(run), "--devices", "2"]
        with (tmp_path / "output.txt").open("w") as stream:
            process = subprocess.Popen(
                command, env=ENVIRONMENT, stdout=stream, stderr=subprocess.STDOUT, start_new_session=True
            )
            end = time.monotonic() + 100
            while len(lines_of(run)) < 12:  # both are at the attacks
                assert process.poll() is None, (tmp_path / "output.txt").read_text()
                assert time.monotonic() < end
                time.sleep(0.002)
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        assert not (run / NAME).exists()
        assert [path.name for path in journals(run)] == [f"{NAME}.journal", f"{NAME}.journal.1"]
        record = in_process(run)
        assert untimed(record) == untimed(whole)
        assert journals(run) == []


def lines_of(folder):
    """All lines of all journals, whole or not."""
    return [line for path in journals(folder) for line in path.read_text().splitlines()]
