"""The command ``study``: what it prints, and that faults are one line."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest
import yaml

from deconfound.recipes import studying
from deconfound.recipes.studying import Studied
from deconfound.records import StudyRecord

STUDY = {
    "study": "tiny",
    "data": "digits",
    "set": {"epochs": 1},
    "judge": {"deterministic": [{"suite": "pgd-1", "n": 5}]},
    "runs": [{"recipe": "standard"}],
}


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(STUDY))
    return path


@pytest.fixture
def light(monkeypatch):
    original = studying.evaluate_target
    monkeypatch.setattr(
        studying, "evaluate_target", lambda t, j, **more: original(t, replace(j, checks=False, curve=False), **more)
    )
    monkeypatch.setattr(studying, "render", lambda *_, **__: "page")


def test_from_a_file_to_a_table(cli, file, tmp_path, light):
    out = tmp_path / "out"
    code, shown, _ = cli("study", file, "--out", out, "--dry-run")
    assert (code, shown) == (0, "standard-0: training left, pgd-1-5 left\n")
    assert not out.exists()
    assert cli("study", file, "--out", out, "--part", "train", "--quiet").out == (
        "standard-0: training done, pgd-1-5 left\n"
    )
    code, shown, _ = cli("study", file, "--out", out, "--quiet")
    assert code == 0
    assert "Accuracy with 95 % Wilson intervals: digits" in shown
    assert "UNRELIABLE" in shown  # the checks were left out
    code, shown, _ = cli("study", file, "--out", out, "--table", "--json")
    assert code == 0
    assert StudyRecord.from_json(shown) == StudyRecord.read(out / "study.json")
    assert json.loads(shown)["runs"][0]["results"][0]["judgement"] == "pgd-1-5"


def test_a_diverged_run_is_a_failure(cli, file, tmp_path, monkeypatch):
    found = Studied(record=None, status=(), failures=("standard-0: the loss is nan",))
    monkeypatch.setattr(studying, "study", lambda *_, **__: found)
    code, out, err = cli("study", file, "--out", tmp_path / "out")
    assert (code, out, err) == (1, "", "error: standard-0: the loss is nan\n")


@pytest.mark.parametrize(
    ("words", "match"),
    [
        (("mnits", "--out", "new"), "study: got 'mnits'; .*did you mean 'mnist'"),
        (("broken.yaml", "--out", "new"), "study: got 'broken.yaml'; expected a valid YAML file"),
        (("nameless.yaml", "--out", "new"), "nameless.yaml: study: got None; expected a value; this key is required"),
        (("mnist",), "deconfound study: Missing option '--out'"),
        (("mnist", "--out", "file"), "out: got 'file'; expected a folder; a file of this name exists"),
        (("mnist", "--out", "new", "--seeds", "a"), "seeds: got 'a'; expected whole numbers separated by commas"),
        (("mnist", "--out", "new", "--only", "pgd-at,"), "only: got 'pgd-at,'; expected words separated by commas"),
        (("mnist", "--out", "new", "--only", "trade"), "only: got 'trade'; .*did you mean 'trades'"),
        (("mnist", "--out", "new", "--part", "judg"), "part: got 'judg'; .*did you mean 'judge'"),
        (("mnist", "--out", "new", "--part", "train", "--table"), "part: got 'train'; expected table, or nothing"),
        (("mnist", "--out", "new", "--table"), "out: got 'new'; expected a study with a run that is judged"),
    ],
)
def test_faults(refused, words, match):
    assert re.search(match, refused("study", *words))


def test_studies_are_listed(cli):
    code, out, _ = cli("list", "studies")
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()] == [
        "amr-gmm",
        "cifar10",
        "cifar10-small",
        "confounded",
        "fashion",
        "mnist",
    ]
    assert "pgd-STEPS" in cli("list", "suites").out
    assert "DATA:train=N" in cli("list", "data").out
