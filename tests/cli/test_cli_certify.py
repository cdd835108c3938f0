"""``deconfound certify`` and ``train --standard``: what they print, write and refuse."""

from __future__ import annotations

import json
import shutil

import pytest

from deconfound.cli import main
from deconfound.evaluation import Certification
from deconfound.recipes.certifying import Certifying, certify
from deconfound.records import CertificationRecord, TrainingRecord

QUICK = ("--set", "epochs=2", "--quiet")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A run trained under noise and one that was not, on digits."""
    folder = tmp_path_factory.mktemp("runs")
    for name, recipe in (("noisy", "smoothing"), ("plain", "standard")):
        assert main(["train", recipe, "--out", str(folder / name), *QUICK]) == 0
    return folder


@pytest.fixture
def here(runs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("noisy", "plain"):
        shutil.copytree(runs / name, tmp_path / name)
    return tmp_path


def test_certify_prints_a_table_and_writes_a_record(cli, here):
    code, out, err = cli("certify", "noisy", "-n", "20", "--draws", "200", "--radii", "0,0.25,2")
    assert (code, err) == (0, "")
    *table, last = out.splitlines()
    assert last == "Record: noisy/certify-sigma0.5-n20-draws200.json"
    assert max(map(len, table)) <= 80
    record = CertificationRecord.read(here / "noisy" / "certify-sigma0.5-n20-draws200.json")
    assert (record.sigma, record.n, record.draws, record.defence) == (0.5, 20, 200, "smoothing")
    assert [share.radius for share in record.certified] == [0, 0.25, 2]
    for part in ("digits[test]", "sigma 0.5", "n 20, seed 0", "certified at 0.25", "abstained", "at most 0.001"):
        assert part in out, part
    assert not list((here / "noisy").glob("*.journal"))
    again = cli("certify", "noisy", "-n", "20", "--draws", "200")
    assert (again.code, again.out) == (2, "")
    assert "expected a new file; a finished record lies here" in again.err
    assert cli("train", "smoothing", "--out", "noisy", *QUICK, "--overwrite").code == 0
    assert not list((here / "noisy").glob("certify-*"))  # of the network that went


def test_another_sigma_another_run_and_json(cli, here):
    code, out, err = cli("certify", "plain", "--sigma", "0.1", "-n", "5", "--draws", "50", "--json", "--out", "c.json")
    assert (code, err) == (0, "")
    assert out == (here / "c.json").read_text()
    assert CertificationRecord.from_json(out).sigma == 0.1
    stronger = cli("certify", "noisy", "--sigma", "0.2", "-n", "5", "--draws", "50", "--seed", "3", "--json")
    assert CertificationRecord.from_json(stronger.out).sigma == 0.2
    assert (here / "noisy" / "certify-sigma0.2-n5-draws50-seed3.json").exists()


def test_an_interrupted_overwrite_goes_on(here):
    class Impatient:
        def start(self, *_):
            pass

        def update(self, done, values):
            raise KeyboardInterrupt

    wanted = Certifying(run="noisy", n=20, settings=Certification(draws=50, batch_size=10))
    whole, path = certify(wanted)
    with pytest.raises(KeyboardInterrupt):
        certify(wanted, overwrite=True, monitor=Impatient())
    journal = path.with_name(path.name + ".journal")
    call, batch = journal.read_text().splitlines()
    entry = json.loads(batch)
    entry["points"][0]["radius"] = 12345.0  # a batch that is not done again shows its mark
    journal.write_text(f"{call}\n{json.dumps(entry)}\n")
    resumed, _ = certify(wanted, overwrite=True)
    assert resumed.points[0].radius == 12345
    assert resumed.points[1:] == whole.points[1:]
    assert CertificationRecord.read(path) == resumed
    assert not journal.exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("plain",), "sigma: got None; expected a number above 0 (--sigma): plain was not trained under noise"),
        (("plain", "--sigma", "-1"), "sigma: got -1.0; expected a number above 0"),
        (("nowhere",), "run: got 'nowhere'"),
        (("noisy", "--draws", "0"), "draws: got 0; expected a whole number of at least 1"),
        (("noisy", "--alpha", "2"), "alpha: got 2.0; expected a level between 0 and 1"),
        (("noisy", "-n", "100000"), "n: got 100000; expected between 1 and the split's"),
        (("noisy", "--radii", "x"), "radii: got 'x'; expected numbers separated by commas"),
    ],
)
def test_bad_input(cli, here, words, message):
    before = sorted(path for path in here.rglob("*"))
    code, out, err = cli("certify", *words)
    assert (code, out) == (2, "")
    assert message in err
    assert len(err.splitlines()) == 1
    assert sorted(path for path in here.rglob("*")) == before


def test_a_standard_network_is_given(cli, here):
    words = (
        "train",
        "help",
        "--out",
        "h",
        "--standard",
        "plain",
        *QUICK,
        "--set",
        "steps=1",
        "--set",
        "selection.steps=1",
    )
    assert cli(*words).code == 0
    assert TrainingRecord.read(here / "h" / "record.json").stages["standard"].run == "plain"
    refused = cli("train", "pgd-at", "--out", "p", "--standard", "plain", *QUICK)
    assert (refused.code, refused.out) == (2, "")
    assert "stages: got 'standard'; expected no stage: pgd-at builds on none" in refused.err
    assert not (here / "p").exists()
