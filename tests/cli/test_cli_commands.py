"""The commands where all goes well: what they print, and that JSON is the record."""

from __future__ import annotations

import functools
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from deconfound.recipes import demo as demo_job
from deconfound.recipes import training as train_job
from deconfound.recipes.listing import KINDS
from deconfound.recipes.tour import TOUR
from deconfound.records import Comparison, EvaluationRecord, TrainingRecord
from jobs import short_tour


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def run(workspace, tmp_path):
    return shutil.copytree(workspace / "r", tmp_path / "r")


def test_version(cli):
    code, out, err = cli("--version")
    assert (code, err) == (0, "")
    for package in ("deconfound", "torch", "lightning-fabric"):
        assert re.search(rf"^{package} \S", out, re.MULTILINE)


@pytest.mark.parametrize("kind", KINDS)
def test_list(cli, kind):
    code, out, err = cli("list", kind)
    assert (code, err) == (0, "")
    rows = json.loads(cli("list", kind, "--json").out)
    assert len(out.splitlines()) == len(rows) > 0
    for line, (name, text) in zip(out.splitlines(), rows.items(), strict=True):
        assert line.split("  ")[0].strip() == name
        assert line.endswith(text)
        assert text


def test_train(cli):
    code, out, err = cli("train", "standard", "--set", "epochs=1", "--out", "run")
    assert code == 0
    assert re.fullmatch(
        r"run: standard on digits\[train\] \(digits family\), kept epoch 1 of 1, validation clean \d+\.\d%; "
        r"\d+ s, [\d,]+ images/s\. Judge it: deconfound evaluate run\n",
        out,
    )
    assert err.startswith("standard on digits[train]: 1,437 images, digits family (--set family=... changes it)")
    assert len(err.splitlines()) == 1
    code, out, err = cli("train", "run/recipe.yaml", "--out", "run", "--resume")
    assert (code, err) == (0, "finished before; nothing is left to do\n")


def test_train_without_out_says_where_it_went(cli, tmp_path):
    code, out, _ = cli("train", "standard", "--set", "epochs=1")
    assert (code, out.partition(":")[0]) == (0, "runs/standard-digits")
    assert (tmp_path / "runs" / "standard-digits" / "record.json").exists()


def test_train_quiet_and_json(cli, tmp_path):
    code, out, err = cli("train", "standard", "--set", "epochs=1", "--out", "run", "--json", "--quiet")
    assert (code, err) == (0, "")
    assert out == (tmp_path / "run" / "record.json").read_text()
    assert TrainingRecord.from_json(out).recipe["recipe"] == "standard"
    code, out, err = cli("train", "standard", "--set", "epochs=1", "--out", "run2", "-q")
    assert (code, err) == (0, "")
    assert len(out.splitlines()) == 1


def test_options_of_train_reach_the_job(cli, monkeypatch):
    seen = {}

    def job(recipe, **arguments):
        seen.update(arguments, recipe=recipe)
        raise KeyboardInterrupt

    monkeypatch.setattr(train_job, "train", job)
    words = "--data D --model M --out O --set a=1 --set b.c=2 --resume --devices 2 --num-nodes 3 --strategy ddp"
    more = "--accelerator cpu --precision 64-true --checkpoint-seconds 5 --quiet"
    assert cli("train", "pgd-at", *words.split(), *more.split()).code == 130
    compute = seen["compute"]
    assert (seen["recipe"], seen["data"], seen["model"], str(seen["out"])) == ("pgd-at", "D", "M", "O")
    assert seen["changes"] == ["a=1", "b.c=2", "precision=64-true"]
    assert (seen["resume"], seen["overwrite"], seen["checkpoint_seconds"]) == (True, False, 5)
    assert (compute.devices, compute.num_nodes, compute.strategy, compute.accelerator) == (2, 3, "ddp", "cpu")


def test_evaluate(cli, run):
    code, out, err = cli("evaluate", "r", "--suite", "quick", "-n", "20")
    assert (code, err) == (0, "")
    record = EvaluationRecord.read(run / "evaluate-quick-linf-0.1-n20.json")
    for shown in ("digits[test]", "linf 0.1", "quick", "n 20", f"{100 * record.robust_accuracy:.1f} %", "verdict"):
        assert shown in out
    assert out.endswith("Record: r/evaluate-quick-linf-0.1-n20.json\n")


def test_evaluate_json_is_the_record(cli, run):
    code, out, err = cli(
        "evaluate", "r", "--suite", "quick", "-n", "20", "--sample", "3", "--norm", "l2", "--seed", "5", "--json"
    )
    assert (code, err) == (0, "")
    assert out == (run / "evaluate-quick-l2-2-n20-sample3-seed5.json").read_text()
    record = EvaluationRecord.from_json(out)
    assert (record.threat.norm, record.threat.eps, record.seed, record.n) == ("l2", 2, 5, 20)
    assert [outcome.index for outcome in record.outcomes] != list(range(20))


def test_evaluate_third_party_weights(cli, shared):
    weights, data = shared / "weights" / "mnist_lenet5_adv.pt", shared / "data" / "mnist"
    code, out, err = cli(
        "evaluate",
        "lenet5",
        "--weights",
        weights,
        "--data",
        data,
        "-n",
        "20",
        "--eps",
        "0.3",
        "--suite",
        "quick",
        "--json",
    )
    assert (code, err) == (0, "")
    record = EvaluationRecord.from_json(out)
    assert (record.model, record.data, record.threat.eps) == ("lenet5", "mnist[test]", 0.3)
    assert record.clean_accuracy >= 0.95
    assert record.robust_accuracy >= 0.8


def test_a_network_of_ones_own(cli, workspace, monkeypatch):
    monkeypatch.chdir(workspace)
    code, out, err = cli(
        "evaluate", "cli_data:net", "--data", "cli_data:right", "--suite", "quick", "-n", "10", "--json"
    )
    assert (code, err) == (0, "")
    assert EvaluationRecord.from_json(out).model == "cli_data:net"


def test_report(cli, run, tmp_path):
    code, out, err = cli("report", "r", "--out", "deep/page.html")
    assert (code, out, err) == (0, "deep/page.html\n", "")
    assert "standard" in (tmp_path / "deep" / "page.html").read_text()
    assert cli("report", "r", "r/evaluate-quick-linf-0.1-n10.json", "--out", "deep/page.html", "--overwrite").code == 0


def test_compare(cli, run, tmp_path):
    record, other = "r/evaluate-quick-linf-0.1-n10.json", "r/evaluate-quick-linf-0.1-n20-seed5.json"
    assert cli("evaluate", "r", "--suite", "quick", "-n", "20", "--seed", "5", "--quiet").code == 0
    code, out, err = cli("compare", record, other, "--out", "deep/comparison.json")
    assert (code, err) == (0, "")
    assert max(map(len, out.splitlines())) <= 80
    for shown in ("digits[test]", "linf 0.1", "suite quick", "n 20", "seed 5", "A - B", "only", "reliable"):
        assert shown in out
    assert out.endswith("Record: deep/comparison.json\n")
    found = Comparison.read(tmp_path / "deep" / "comparison.json")
    assert [row.label.partition(", ")[2] for row in found.evaluations] == [Path(record).stem, Path(other).stem]
    (pair,) = found.pairs
    assert (pair.n, pair.clean.only_first, pair.clean.only_second, pair.clean.p_value) == (10, 0, 0, 1)

    code, out, err = cli("compare", "r", "--json", "--adjust", "none", "--out", "deep/comparison.json", "--overwrite")
    assert (code, err) == (0, "")
    assert out == (tmp_path / "deep" / "comparison.json").read_text()
    assert Comparison.from_json(out).adjust == "none"


def test_demo(cli, tmp_path, monkeypatch):
    tour = short_tour(TOUR)
    tour = replace(tour, chapters=tour.chapters[:1])
    monkeypatch.setattr(demo_job, "demo", functools.partial(demo_job.demo, tour=tour))
    code, out, err = cli("demo")
    assert code == 0
    assert out.endswith("Open the report: demo/report.html\n")
    learned = out.partition("What was learned:\n")[2]
    assert re.search(r"^- Under attack \(suite quick .*n = 8\) standard falls by \d+\.\d points", learned, re.M)
    assert re.search(r"^- Reliance, .* standard \d+\.\d % \[", learned, re.M)
    assert "Shortened: standard trained for 1 epoch, where its recipe has 40." in out
    refused = cli("demo")
    assert (refused.code, refused.out) == (2, "")
    assert refused.err == (
        "error: out: got 'demo'; expected a new folder; a demo lies here (--overwrite replaces it)\n"
    )
    code, out, err = cli("demo", "--overwrite", "--json", "--quiet")
    assert (code, err) == (0, "")
    assert out == (tmp_path / "demo" / "results.json").read_text()
    assert cli("report", "demo/results.json").code == 0
