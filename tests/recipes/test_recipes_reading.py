"""What a folder of records may hold for a report: newer records are named, missing figures do not matter."""

from __future__ import annotations

import json
import sys
from types import ModuleType

import pytest
import torch

from deconfound.errors import InputError
from deconfound.recipes import Judging, Target, evaluate_target, train
from deconfound.recipes.analysing import analyze
from deconfound.recipes.reporting import write_report

NAMES = ("<b>x</b>", '"><script>alert(1)</script>')


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run on wide grey images of two classes with markup for names, judged and looked into."""
    images = torch.linspace(0, 1, 40 * 10 * 18).view(40, 1, 10, 18)
    labels = torch.arange(40) % 2
    module = ModuleType("reading_data")
    module.two = lambda: dict.fromkeys(("train", "test"), (images, labels, NAMES))
    module.one = lambda: {"train": (images, labels * 0, ["only"])}
    sys.modules["reading_data"] = module
    place = tmp_path_factory.mktemp("runs") / "wide"
    changes = {"family": "digits", "epochs": 1, "steps": 1, "selection.keep": "last", "selection.size": 0}
    train("pgd-at", data="reading_data:two", out=place, changes=changes)
    evaluate_target(Target(target=str(place), n=8), Judging(suite="pgd-1", checks=False, curve=False))
    analyze(place, "pictures", n=4, steps=1)
    yield place
    sys.modules.pop("reading_data")


def test_a_page_without_the_figures_beside_it_and_with_names_as_text(run, tmp_path):
    before = write_report([run], tmp_path / "before.html").read_text()
    for figure in [*run.rglob("*.png"), *run.rglob("*.svg"), *run.rglob("*.csv")]:
        figure.unlink()
    after = write_report([run], tmp_path / "after.html").read_text()
    assert after == before
    assert not [markup for markup in ("<b>x</b>", "<script>alert") if markup in after]
    assert "&lt;b&gt;x&lt;/b&gt;" in after


@pytest.mark.parametrize("kind", ["style-analysis", "dream-analysis", "evaluation", "results"])
def test_a_newer_record_of_any_kind_is_named_and_no_page_is_written(run, tmp_path, kind):
    newer = tmp_path / "newer.json"
    newer.write_text(json.dumps({"kind": kind, "schema_version": 99}))
    with pytest.raises(InputError, match=r"newer\.json: schema_version: got 99; expected at most 1; update deconfound"):
        write_report([run, tmp_path], tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()


def test_a_record_that_no_page_shows_is_named_by_its_kind(run, tmp_path):
    other = tmp_path / "study.json"
    other.write_text(json.dumps({"kind": "study", "schema_version": 1}))
    with pytest.raises(InputError, match=r"study\.json'; expected .* or an analysis; this is one of a study$"):
        write_report([run, other], tmp_path / "page.html")
    said = []
    write_report([run, tmp_path], tmp_path / "page.html", say=said.append)
    assert said == ["not on the page, which shows evaluations, trainings and analyses: records of kind study (1)"]
    write_report([run], tmp_path / "alone.html", say=said.append)
    assert len(said) == 1


@pytest.mark.parametrize("share", [0.02, 0.5, 0.99])
def test_a_record_that_is_cut_off_is_named(run, tmp_path, share):
    record = run / "record.json"
    cut = tmp_path / "cut.json"
    text = record.read_text()
    cut.write_text(text[: max(int(share * len(text)), 60)])
    with pytest.raises(InputError, match=r"cut\.json'; expected a whole record; this one is damaged"):
        write_report([run, tmp_path], tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()


@pytest.mark.parametrize("text", ['{"kind": "mine', "{", "", '{"schema_version": 1, "name'])
def test_a_damaged_file_of_others_is_left_out(run, tmp_path, text):
    (tmp_path / "other.json").write_text(text)
    assert write_report([run, tmp_path], tmp_path / "page.html").exists()


@pytest.mark.parametrize("other", [{"kind": 3, "schema_version": 99}, {"schema_version": 99}, [99]])
def test_files_of_others_are_left_out(run, tmp_path, other):
    (tmp_path / "other.json").write_text(json.dumps(other))
    assert write_report([run, tmp_path], tmp_path / "page.html").exists()


def test_one_class_is_refused_by_the_name_of_the_data(run, tmp_path):
    with pytest.raises(
        InputError, match="data: got 'reading_data:one with 1 class'; expected a data set of at least two"
    ):
        train("pgd-at", data="reading_data:one", out=tmp_path / "one", changes={"family": "digits"})
    assert not (tmp_path / "one").exists()


def test_a_setting_of_another_kind_says_where_it_belongs(run):
    with pytest.raises(InputError, match=r"rho: got '0.3'; expected none with kind pictures; it belongs to reliance"):
        analyze(run, "pictures", rho="0.3")
