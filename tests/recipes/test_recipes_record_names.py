"""Where records of evaluations go that are given no place: another question, another file."""

from __future__ import annotations

import re
import shutil

import pytest

from deconfound.core.threat import ThreatModel
from deconfound.recipes.evaluating import Judging
from deconfound.recipes.targets import Target, default_path, evaluate_target

THREAT = ThreatModel("linf", "8/255")
PLAIN = {"suite": "quick", "checks": False, "curve": False, "gallery": 0}


@pytest.fixture
def run(trained, tmp_path):
    return shutil.copytree(trained.path, tmp_path / "run")


def test_the_file_name_tells_evaluations_apart(run):
    for target, judging, name in (
        ({"n": 5, "eps": "8/255"}, {}, "evaluate-quick-linf-8-255-n5.json"),
        ({"n": 5, "sample": 3}, {}, "evaluate-quick-linf-0.1-n5-sample3.json"),
        ({"n": 5}, {"seed": 2}, "evaluate-quick-linf-0.1-n5-seed2.json"),
        ({"n": 5}, {}, "evaluate-quick-linf-0.1-n5.json"),
        ({"n": 5}, {"budget": "demo"}, "evaluate-quick-demo-linf-0.1-n5.json"),
    ):
        _, path = evaluate_target(Target(target=str(run), **target), Judging(**judging, **PLAIN))
        assert path.name == name


@pytest.mark.parametrize(
    ("judging", "name"),
    [
        ({}, "fast-linf-8-255"),
        ({"batch_size": 3, "precision": "32", "compile": True, "gallery": 0}, "fast-linf-8-255"),
        ({"suite": "rand", "budget": "demo", "loops": 1, "draws": 3}, "rand-demo-linf-8-255-loops1-draws3"),
        ({"audit_min": 50, "audit_share": 0.25, "seed": 4}, "fast-linf-8-255-seed4-audit50-share0.25"),
        ({"suite": "adaptive", "separate": True, "loops": 2}, "adaptive-linf-8-255-separate-loops2"),
    ],
)
def test_every_option_that_changes_the_answer_is_in_the_name(tmp_path, judging, name):
    path = default_path(Target(target=str(tmp_path)), Judging(**judging), THREAT)
    assert path == tmp_path / f"evaluate-{name}.json"
    assert default_path(Target(target="small"), Judging(**judging), THREAT) is None


def test_sources_of_transfer_are_in_the_name_by_their_folders(tmp_path):
    def name(*sources, **judging):
        target = Target(target=str(tmp_path), transfer_from=tuple(map(str, sources)))
        return default_path(target, Judging(**judging), THREAT).name

    folders = [tmp_path / f"source_{number:02}" for number in range(12)]
    for folder in folders:
        folder.mkdir()
        (folder / "model.safetensors").write_text("weights")
    files = [folder / "model.safetensors" for folder in folders]
    one = "evaluate-fast-linf-8-255-transfer-source_00.json"
    assert name(f"{folders[0]}/") == name(files[0]) == one
    assert name(*folders[:2], separate=True) == "evaluate-fast-linf-8-255-separate-transfer-source_00+source_01.json"
    assert re.fullmatch(r"evaluate-fast-linf-8-255-transfer-12-[0-9a-f]{8}\.json", name(*folders))
    assert name(*folders) == name(*files) != name(*folders[1:], folders[0])
