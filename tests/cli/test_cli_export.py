"""The command ``export``."""

from __future__ import annotations

import json
import shutil

import pytest

from deconfound.records import ModelCard


@pytest.fixture
def run(workspace, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return shutil.copytree(workspace / "r", tmp_path / "r")


def test_export(cli, run):
    code, out, err = cli("export", "r", "--out", "mine")
    assert (code, err) == (0, "")
    assert out.splitlines() == [
        "mine/model.safetensors: the network that was trained; weights as the run keeps them",
        "Card: mine/card.md and card.json (1 evaluation(s) on the card)",
    ]
    assert "standard on digits" in (run.parent / "mine" / "card.md").read_text()


def test_json_is_the_card(cli, run):
    file = next(run.glob("evaluate-*.json"))
    code, out, err = cli("export", "r", "--out", "mine", "--json", "--record", file, "--record", file)
    assert (code, err) == (0, "")
    card = ModelCard.from_json(out)
    assert ModelCard.read("mine/card.json") == card
    assert [row.n for row in card.evaluations] == [10, 10]
    assert json.loads(out)["kind"] == "model-card"


@pytest.mark.parametrize(
    ("words", "rule"),
    [
        (("export", "r"), "deconfound export: Missing option '--out'"),
        (("export",), "deconfound export: Missing argument 'RUN'"),
        (("export", "half", "--out", "new"), "run: got 'half'; expected a finished run: record.json is missing"),
        (("export", "other.pt", "--out", "new"), "run: got 'other.pt'; expected weights written by train"),
        (("export", "nowhere", "--out", "new"), "run: got 'nowhere'; expected a folder with model.safetensors"),
        (("export", "r", "--out", "r"), "out: got 'r'; expected a folder of its own; a run lies here"),
        (("export", "r", "--out", "file"), "out: got 'file'; expected a folder; a file lies at file"),
        (("export", "r", "--out", "new", "--format", "onx"), "format: got 'onx'"),
        (("export", "r", "--out", "new", "--stochastic", "x"), "stochastic: got 'x'"),
        (("export", "r", "--out", "new", "--record", "results.json"), "record: got 'results.json'"),
        (("export", "r", "--out", "new", "--record", "newer.json"), "schema_version: got 99"),
    ],
)
def test_bad_input_is_one_line(refused, words, rule):
    assert rule in refused(*words)
