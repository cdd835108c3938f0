"""``deconfound analyze RUN reliance`` and ``all``, and several reliance records side by side."""

from __future__ import annotations

import json
import shutil

import pytest
import torch

import deconfound
from deconfound.data import load
from deconfound.errors import InputError
from deconfound.recipes.analysing import KINDS, Look, look_into, look_into_all
from deconfound.recipes.collecting import collect_reliance
from deconfound.recipes.evaluating import Judging
from deconfound.recipes.loading import load_run
from deconfound.recipes.relying import parse_rhos
from deconfound.recipes.reporting import write_report
from deconfound.recipes.targets import Target, evaluate_target
from deconfound.recipes.training import train
from deconfound.records import RelianceRecord
from jobs import contents, data_module, split
from pages import EVIL, Page

DATA = "digits+tint:rho=0.9"


@pytest.fixture(scope="module")
def standard(tmp_path_factory):
    """A run of one epoch on tinted digits; not to be written to."""
    return train("standard", data=DATA, out=tmp_path_factory.mktemp("runs") / "s", changes={"epochs": 1}).path


@pytest.fixture
def run(standard, tmp_path):
    return shutil.copytree(standard, tmp_path / "run")


def look(run, **changes):
    return Look(**{"run": str(run), "kind": "reliance", "n": 90} | changes)


def test_figures_are_those_of_the_network(run):
    record, files = look_into(look(run, rho="sweep"))
    assert [path.name for path in files] == ["reliance.json", "reliance.csv", "reliance.svg"]
    assert files[0].parent.name == "analyze-reliance-n90-rhosweep"
    assert RelianceRecord.read(files[0]) == record
    assert (record.data, record.n, record.defence) == (f"{DATA}[test]", 90, "standard")
    assert [point.rho for point in record.points] == [0.1, 0.5, 0.9, 0.99]
    model, source = load_run(run).model, load(DATA, parts=("test",)).test

    def classes(images):
        (batch,) = images.batches([torch.arange(90)])
        with torch.no_grad():
            return model(batch.images).argmax(1), batch.labels

    seen, labels = classes(source)
    other, _ = classes(source.do("confounder", "other"))
    assert record.own.observed.share == int((seen == labels).sum()) / 90
    assert record.own.reliance.share == int((seen != other).sum()) / 90
    assert look_into(look(run, batch_size=7))[0].own == record.own


def test_other_data_and_other_rhos(run, tmp_path):
    wanted = look(run, data="digits+patch:rho=0.5", rho=[1, 0.25])
    record, _ = look_into(wanted, out=tmp_path / "a")
    assert [point.rho for point in record.points] == [0.25, 0.5, 1.0]
    assert record.own.rho == 0.5


@pytest.mark.parametrize("text", ["0.5,1.5", "much", "", "0.5,,1", "-0.1", "nan"])
def test_odd_rhos_are_refused(text):
    with pytest.raises(InputError, match=r"^rho: got "):
        look("run", rho=text)


def test_rhos_from_words():
    assert parse_rhos("1/10, 0.5") == parse_rhos([0.1, 0.5]) == (0.1, 0.5)
    assert parse_rhos(None) is None
    assert parse_rhos(0.9) == parse_rhos([0.9]) == parse_rhos("0.9") == (0.9,)
    assert look("run", rho=0.5).rho == 0.5
    with pytest.raises(InputError, match=r"^rho: got "):
        look("run", rho=1.5)


def test_a_setting_of_another_kind_is_refused():
    with pytest.raises(InputError, match=r"^rho: got 'sweep'; expected none with kind style; it belongs to reliance"):
        look("run", kind="style", rho="sweep")


def test_data_without_do_operations_say_what_is_needed(run):
    before = contents(run)
    with pytest.raises(InputError, match=r"^data: got 'digits\[test\]'; expected data with do-operations: shapes, or"):
        look_into(look(run, data="digits"))
    with pytest.raises(InputError, match=r"^rho: "):
        look_into(look(run, data="digits+tint:rho=0.5", rho=(0.5, 7)))
    assert contents(run) == before


def test_a_random_network_is_asked_for_its_majority(tmp_path):
    path = train("ciiv", data=DATA, out=tmp_path / "c", changes={"epochs": 1, "sampler.loops": 2}).path
    record, _ = look_into(look(path, n=12))
    assert record.judge["draws"] == 9
    assert record.unsteady is not None
    again, _ = look_into(look(path, n=12, batch_size=5), overwrite=True)
    assert again.points == record.points


class TestAll:
    def test_what_fits_is_done_and_the_rest_says_why_not(self, run):
        everything = look_into_all(look(run, kind="all", n=30, rho="1/2", steps=3))
        assert "reliance" in everything.found
        assert everything.found.keys() | everything.skipped.keys() == KINDS.keys()
        assert not everything.found.keys() & everything.skipped.keys()
        assert "needs a style branch" in everything.skipped["style"]
        record, files = everything.found["reliance"]
        assert files[0] == run / "analyze-reliance-n30-rho1-2" / "reliance.json"
        assert [point.rho for point in record.points] == [0.5, 0.9]

    def test_a_finished_one_is_left_as_it_is(self, run, tmp_path):
        out = tmp_path / "all"
        look_into(look(run, n=30), out=out)
        before = (out / "reliance.json").read_bytes()
        again = look_into_all(look(run, kind="all", n=30, steps=3), out=out)
        assert "--overwrite" in again.skipped["reliance"]
        with pytest.raises(InputError, match=r"an analysis left to do \(style: needs a style branch"):
            look_into_all(look(run, kind="all", n=30, steps=3), out=out)
        assert (out / "reliance.json").read_bytes() == before

    def test_bad_input_is_bad_input(self, run):
        with pytest.raises(InputError, match=r"^n: got 999"):
            look_into_all(look(run, kind="all", n=999))
        with pytest.raises(InputError, match=r"^kind: got 'all'; expected a single kind"):
            look_into(look(run, kind="all"))


def test_odd_images_and_names_with_markup_from_training_to_report(tmp_path, monkeypatch):
    """Not square, in colour, names that want to be code; the figures beside the records are not needed."""
    names = (EVIL, "<b>two</b>", "&three")
    splits = {role: (*split(48, 3, (3, 12, 20), seed), names) for seed, role in enumerate(("train", "test"))}
    data = data_module(monkeypatch, "odd_images", **splits) + "+tint:rho=0.8"
    changes = {"epochs": 1, "model": "small", "selection.size": 12}
    path = train("standard", data=data, out=tmp_path / "r", changes=changes).path
    found = deconfound.analyze_all(path, rho="sweep", steps=5, treatments=1)
    assert set(found.found) == {"reliance", "instruments", "pictures"}
    for _, files in found.found.values():
        for file in files[1:]:
            file.unlink()
    evaluate_target(Target(target=str(path), n=10), Judging(suite="quick", checks=False, curve=False))
    page = Page(write_report([path], tmp_path / "page.html").read_text())
    assert page.open == []
    assert len(page.all("script")) == 1
    assert "Feature pictures: r" in page.text
    assert not [name for _, attributes in page.elements for name in attributes if name.startswith("on")]


def test_records_of_several_runs(run, tmp_path):
    files = [look_into(look(run, n=20, seed=seed))[1][0] for seed in (0, 1)]
    assert [record.seed for record in collect_reliance(files)] == [0, 1]
    assert len(collect_reliance([run, *files])) == 2
    with pytest.raises(InputError, match=r"^compare: got .*; expected at least two reliance records .*, not 1"):
        collect_reliance(files[:1])
    with pytest.raises(InputError, match="a folder or file that exists"):
        collect_reliance([tmp_path / "nowhere"])
    files[0].write_text(json.dumps(json.loads(files[0].read_text()) | {"schema_version": 99}))
    with pytest.raises(InputError, match="schema_version: got 99"):
        collect_reliance(files)
