"""Two processes end where one does, and equal each other."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import two_processes
from deconfound.models.style_branch import StyleBranch

TESTS = Path(__file__).parents[1]


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """What each of two processes ended with, by gloo over the loopback interface."""
    folder = tmp_path_factory.mktemp("ranks")
    launcher = ["torch.distributed.run", "--nproc_per_node", "2", "--master_addr", "127.0.0.1"]
    command = [sys.executable, "-m", *launcher, "--master_port", str(free_port()), two_processes.__file__, str(folder)]
    paths = os.pathsep.join([str(TESTS.parent / "src"), str(TESTS)])
    environment = os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    output = folder / "output.txt"
    with output.open("w") as stream:
        launched = subprocess.Popen(
            command, env=environment, stdout=stream, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            code = launched.wait(timeout=120)
        except subprocess.TimeoutExpired:  # one process waits for the other: end both, not their launcher alone
            os.killpg(launched.pid, signal.SIGKILL)
            code = launched.wait()
    assert code == 0, output.read_text()[-4000:]
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


def same(first, second):
    assert first.keys() == second.keys()
    return all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("name", two_processes.CASES)
def test_ranks_end_with_equal_weights_statistics_and_buffers(ranks, name):
    first, second = (rank[name] for rank in ranks)
    assert same(first["players"], second["players"])
    assert same(first["kept"], second["kept"])
    assert first["history"] == second["history"]


@pytest.mark.parametrize(
    ("name", "tolerance"),
    [
        ("standard", 1e-5),
        ("pgd-at", 1e-10),
        ("game", 1e-5),
        ("causaladv", 1e-9),
        ("ciiv", 1e-9),
        ("cafe", 1e-9),
        ("awp", 1e-9),
        ("awp-style", 1e-9),
    ],
)
def test_two_processes_end_where_one_does(ranks, name, tolerance):
    alone = two_processes.one_process(name)
    for key, value in alone["players"].items():
        torch.testing.assert_close(ranks[0][name]["players"][key], value, rtol=0, atol=tolerance)
    for together, single in zip(ranks[0][name]["history"], alone["history"], strict=True):
        assert together == pytest.approx(single, abs=1e-4)
    objective, _ = two_processes.CASES[name](0)
    start = objective.players()["model"].state_dict()
    moved = max(float((alone["players"][f"model/{key}"] - value).abs().max()) for key, value in start.items())
    assert moved > 0.01  # otherwise nothing was compared


def test_running_covariances_and_basis_are_those_of_one_process(ranks):
    alone = two_processes.one_process("causaladv")["players"]
    found = ranks[0]["causaladv"]["players"]
    assert int(found["style/content.count"]) == 3 * 64
    assert float(found["style/own.covariance"].abs().max()) > 1e-3
    bases = []
    for players in (alone, found, ranks[1]["causaladv"]["players"]):
        branch = StyleBranch(16, 4).double()
        branch.load_state_dict({k.removeprefix("style/"): v for k, v in players.items() if k.startswith("style/")})
        bases.append(branch.basis(players["model/last.weight"]).matrix)
    torch.testing.assert_close(bases[1], bases[0], rtol=0, atol=1e-7)
    assert torch.equal(bases[1], bases[2])


@pytest.mark.parametrize(("name", "player", "trained"), [("amr-gmm", "model", "hg"), ("cafe", "causal", ("model",))])
def test_a_frozen_player_is_the_first_processs_start_on_all(ranks, name, player, trained):
    start = two_processes.CASES[name](0)[0].players()
    for rank in ranks:
        found = rank[name]["players"]
        for key, value in start[player].state_dict().items():
            assert torch.equal(found[f"{player}/{key}"].to(value.dtype), value)
        for other in trained:
            before = start[other].state_dict()
            assert any(not torch.equal(found[f"{other}/{key}"], value) for key, value in before.items())


def test_batchnorm_saw_every_pass_and_its_statistics_moved(ranks):
    state = ranks[0]["batchnorm"]["players"]
    # 8 batches; clean and adversarial pass, and two attack steps in train mode
    assert state["model/1.num_batches_tracked"].item() == 8 * 4
    assert float((state["model/1.running_mean"]).abs().max()) > 1e-3


def test_a_batch_size_that_two_processes_cannot_share_is_refused_on_both(ranks):
    line = "batch_size: got 15; expected a multiple of the number of processes, 2"
    assert [rank["refused"] for rank in ranks] == [line, line]


def test_a_stop_asked_of_one_process_stops_both_and_the_run_continues_exactly(ranks):
    first, second = (rank["stopped"] for rank in ranks)
    assert first["stopped"]
    assert second["stopped"]
    assert first["place"] == second["place"] == (1, 4)  # they agree every 8 steps, 4 make an epoch
    assert first["saved"] > 0
    assert second["saved"] == 0  # the first process alone writes
    assert same(first["kept"], second["kept"])
    assert same(first["kept"], ranks[0]["standard"]["kept"])


def test_what_was_saved_within_an_epoch_goes_on_to_the_history_of_an_uninterrupted_run(ranks):
    first, second = (rank["resumed"] for rank in ranks)
    assert first["places"] == [(0, 8), (0, 16), (1, 8), (1, 16), (2, 0)]  # they agree every 8 steps, 16 make an epoch
    assert second["places"] == []
    own = [meter["sums"]["loss"] for meter in first["state"]["meters"]]
    assert abs(own[0] - own[1]) > 1e-3  # otherwise one meter would do for both
    for rank in (first, second):
        assert rank["again"] == first["whole"]
        assert rank["same"]
    assert first["journal"] == [first["whole"][1]]


def test_one_process_goes_on_with_the_means_of_two(ranks):
    found, whole = two_processes.resumed_alone(ranks[0]["resumed"]["state"]), ranks[0]["resumed"]["whole"]
    for together, single in zip(whole, found, strict=True):
        assert single == pytest.approx(together, abs=1e-5)


def test_processes_that_would_continue_from_different_places_are_refused(ranks):
    assert ranks[0]["apart"].startswith("resume: got 'epoch 2, step 0 on process 0'; expected a run folder that all")
    assert ranks[1]["apart"].startswith("resume: got 'no checkpoint on process 1'; expected a run folder that all")


def test_what_the_first_process_refuses_is_refused_by_all(ranks):
    assert [rank["decided"] for rank in ranks] == ["out: got 'here'; expected another place"] * 2
