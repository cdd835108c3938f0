"""``deconfound analyze``: what it prints and writes, on a run made here."""

from __future__ import annotations

import json
import shutil
from typing import NamedTuple

import pytest

from deconfound.cli import main
from deconfound.recipes import analysing
from deconfound.records import StyleRecord


@pytest.fixture(scope="module")
def causal(tmp_path_factory):
    """A run of causaladv-m on digits, one epoch."""
    run = tmp_path_factory.mktemp("runs") / "c"
    settings = ("--set", "epochs=1", "--set", "steps=1", "--set", "selection.steps=1")
    assert main(["train", "causaladv-m", "--out", str(run), *settings, "--quiet"]) == 0
    return run


@pytest.fixture
def run(causal, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return shutil.copytree(causal, tmp_path / "c")


def test_analyze_prints_a_table_and_says_where_the_files_are(cli, run):
    code, out, err = cli("analyze", "c", "style", "-n", "30")
    assert (code, err) == (0, "")
    record = StyleRecord.read(run / "analyze-style-n30" / "style.json")
    what = ("c (causaladv-m)", "digits[test]", "linf 0.1", "pgd-20", "n = 30", "seed 0")
    found = ("content z", "exact basis (trained)", "deflation basis", f"{100 * record.content.natural.share:.1f} %")
    for part in (*what, *found, "Leakage", "Note: the style predictor"):
        assert part in out, part
    *table, last = out.splitlines()
    assert max(map(len, table)) <= 80
    files = "style.csv, style-accuracy.svg, style-neighbours.png"
    assert last == f"Record: c/analyze-style-n30/style.json; beside it {files}"


def test_json_is_the_record_and_report_takes_it_up(cli, run, tmp_path):
    code, out, err = cli("analyze", "c", "style", "-n", "30", "--sample", "1", "--seed", "2", "--out", "a", "--json")
    assert (code, err) == (0, "")
    assert out == (tmp_path / "a" / "style.json").read_text()
    assert StyleRecord.from_json(out).seed == 2
    assert cli("evaluate", "c", "--suite", "quick", "-n", "5", "--quiet").code == 0
    assert cli("report", "c", "a", "--out", "page.html").code == 0
    assert "Content and style: c (causaladv-m)" in (tmp_path / "page.html").read_text()
    newer = json.loads(out) | {"schema_version": 99}
    (tmp_path / "a" / "style.json").write_text(json.dumps(newer))
    refused = cli("report", "c", "a", "--out", "other.html")
    assert (refused.code, refused.out) == (2, "")
    assert "schema_version: got 99; expected at most 1; update deconfound" in refused.err


def test_options_reach_the_job(cli, monkeypatch):
    class Seen(NamedTuple):
        look: object
        more: dict

    seen = []

    def job(look, **more):
        seen.append(Seen(look, more))
        raise KeyboardInterrupt

    monkeypatch.setattr(analysing, "look_into", job)
    words = "R style --data D -n 5 --sample 6 --seed 7 --batch-size 8 --device cpu --out O --overwrite --quiet"
    assert cli("analyze", *words.split()).code == 130
    (found,) = seen
    assert found.look == analysing.Look(
        run="R", kind="style", data="D", n=5, sample=6, seed=7, batch_size=8, device="cpu"
    )
    assert (str(found.more["out"]), found.more["overwrite"], found.more["monitor"].quiet) == ("O", True, True)


def test_a_finished_analysis_is_kept(cli, run):
    assert cli("analyze", "c", "style", "-n", "5", "--quiet").code == 0
    refused = cli("analyze", "c", "style", "-n", "5")
    assert (refused.code, refused.out) == (2, "")
    assert refused.err.startswith("error: out: got 'c/analyze-style-n5'; expected a folder without a finished analysis")
    assert cli("analyze", "c", "style", "-n", "5", "--quiet", "--overwrite").code == 0


def test_all_kinds_and_what_is_left_out(cli, run, tmp_path):
    code, out, err = cli(
        "analyze", "c", "all", "-n", "20", "--steps", "3", "--quiet", "--data", "digits+tint:rho=0.5", "--out", "a"
    )
    assert (code, err) == (0, "")
    assert "Record: a/style.json" in out
    assert "Record: a/reliance.json; beside it reliance.csv, reliance.svg" in out
    assert "Left out: exposure" in out
    code, out, _ = cli("analyze", "c", "all", "-n", "20", "--steps", "3", "--json", "--out", "b")
    found = json.loads(out)
    assert code == 0
    assert "style-analysis" in [record["kind"] for record in found["analyses"]]
    assert "do-operations" in found["left_out"]["reliance"]
    code, out, _ = cli("analyze", "c", "reliance", "--data", "digits+tint:rho=0.9", "--rho", "sweep", "-n", "20")
    assert code == 0
    assert "rho 0.1: reliance" in out
    code, out, err = cli("compare", "--reliance", "a", "c")
    assert (code, err) == (0, "")
    assert "rho 0.99" in out
    assert len(json.loads(cli("compare", "--reliance", "a", "c", "--json").out)) == 2
    assert cli("compare", "--reliance", "a").code == 2
    assert "out: got 'x.json'" in cli("compare", "--reliance", "a", "c", "--out", "x.json").err
