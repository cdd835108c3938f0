"""What is likely a slip is said: nothing to resume, more processes than cores, draws of what is not random."""

from __future__ import annotations

import os
import shutil

import pytest
from lightning_fabric import Fabric

import deconfound
from deconfound.errors import InputError
from deconfound.recipes import compute
from deconfound.recipes.compute import Compute
from deconfound.recipes.training import train
from jobs import Told
from toys import ToySource, tiny_net

SMALL = {"epochs": 1, "selection.keep": "last", "selection.size": 0}


def test_a_folder_without_anything_to_resume_is_said(tmp_path):
    told = Told()
    out = tmp_path / "run"
    train("standard", data="digits:train=64", out=out, changes=SMALL, resume=True, monitor=told)
    assert any(line == f"{out}: nothing to resume here, training begins" for line in told.messages)
    again = Told()
    train("standard", data="digits:train=64", out=out, changes=SMALL, resume=True, monitor=again)
    assert not any("nothing to resume" in line for line in again.messages)


def test_a_run_that_is_unfinished_says_how_it_goes_on(tmp_path):
    train("standard", data="digits:train=64", out=tmp_path / "run", changes=SMALL)
    (tmp_path / "run" / "model.safetensors").unlink()
    with pytest.raises(InputError, match=r"this run is unfinished, train with --resume and the same --out goes on$"):
        deconfound.load(tmp_path / "run")
    shutil.rmtree(tmp_path / "run")
    with pytest.raises(InputError, match=r"as train leaves it$"):
        deconfound.load(tmp_path / "run")


@pytest.mark.parametrize(("devices", "cores", "good"), [(4, 2, True), (5, 2, False), ("99", 2, False), (2, None, True)])
def test_processes_that_a_processor_has_no_cores_for_are_refused(monkeypatch, devices, cores, good):
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    monkeypatch.setattr(compute, "Fabric", lambda **settings: Fabric(**settings | {"devices": 1}))
    if good:
        Compute(accelerator="cpu", devices=devices).fabric("32-true")
        return
    with pytest.raises(InputError, match=rf"^devices: got '?{devices}'?; expected at most 4 processes"):
        Compute(accelerator="cpu", devices=devices).fabric("32-true")


def test_draws_of_a_network_that_is_not_random_are_refused():
    source = ToySource(count=8)
    threat = deconfound.ThreatModel("linf", 0.1)
    with pytest.raises(InputError, match=r"^draws: got 3; expected none for a network that does not"):
        deconfound.evaluate(tiny_net(), source.images, source.labels, threat=threat, suite="quick", draws=3)
