"""Analyses inside studies: made once after training, refused early where they do not fit, in the study's record."""

from __future__ import annotations

import csv
import json
import shutil
import sys
from dataclasses import replace

import pytest

from analysis_records import (
    make_checkpoints,
    make_effects,
    make_exposure,
    make_instruments,
    make_pictures,
    make_reliance,
)
from deconfound.errors import InputError
from deconfound.recipes import study_file, study_plan, studying
from deconfound.recipes.analysing import KINDS, Look, look_into
from deconfound.recipes.loading import load_run
from deconfound.recipes.reporting import collect
from deconfound.recipes.study_analyses import FITS, Analysis
from deconfound.recipes.study_figures import analysis_result
from deconfound.recipes.studying import study
from deconfound.recipes.targets import evaluate_target
from deconfound.records import EffectsRecord, RelianceRecord, StudyRecord, StyleRecord
from deconfound.store import held
from jobs import Told, contents
from style_records import make_style

DEFINITION = {
    "study": "tiny",
    "data": "digits+patch:rho=0.9",
    "set": {"epochs": 1, "steps": 1, "selection.steps": 1, "batch_size": 512},
    "judge": {"all": [{"suite": "pgd-1", "n": 10}]},
    "analyze": {"all": [{"kind": "reliance", "rho": [0.5, "1/10"], "n": 40}]},
    "runs": [
        {"recipe": "standard"},
        {"recipe": "causaladv-m", "analyze": [{"kind": "style", "n": 30, "seed": 3}]},
        {"recipe": "amr-gmm", "judge": False, "stages": {"base": "standard"},
         "analyze": [{"kind": "effects", "n": 30}]},
    ],
}  # fmt: skip
RELIANCE = "analyze-reliance-n40-rho0.5,1-10"
STYLE = "analyze-style-n30-seed3"


@pytest.fixture(scope="module", autouse=True)
def _light():
    """Neither the checks of an evaluation nor its curve."""

    def lightly(target, judging, **more):
        return evaluate_target(target, replace(judging, checks=False, curve=False), **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(studying, "evaluate_target", lightly)
        yield


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished study; not to be written to."""
    out = tmp_path_factory.mktemp("studies") / "tiny"
    told = Told()
    return study(DEFINITION, out=out, monitor=told), out, told


@pytest.fixture
def copy(finished, tmp_path):
    return shutil.copytree(finished[1], tmp_path / "copy")


@pytest.fixture
def _no_page(monkeypatch):
    monkeypatch.setattr(studying, "render", lambda *_, **__: "page")


def refused(match, spec=DEFINITION, **arguments):
    with pytest.raises(InputError, match=match) as caught:
        study(spec, **arguments)
    assert "\n" not in str(caught.value)


def asked(*analyses, recipe="standard", **changes):
    return DEFINITION | {"analyze": {"all": list(analyses)}, "runs": [{"recipe": recipe}]} | changes


class TestWork:
    def test_records_lie_where_the_other_jobs_look(self, finished):
        found, out, told = finished
        places = {str(path.relative_to(out)) for path in out.glob("*/analyze-*")}
        assert places == {
            f"standard-0/{RELIANCE}", f"causaladv-m-0/{RELIANCE}", f"causaladv-m-0/{STYLE}",
            "amr-gmm-0/analyze-effects-n30",
        }  # fmt: skip
        assert {type(one) for one in collect([out]).analyses} == {RelianceRecord, StyleRecord, EffectsRecord}
        assert told.messages.index("standard-0: pgd-1-10") < told.messages.index(f"standard-0: {RELIANCE}")
        assert found.record.missing == ()
        place = out / "standard-0"
        same = look_into(Look(run=str(place), kind="reliance", n=40, rho="0.5,1/10"), out=out.parent / "again")[0]
        record = RelianceRecord.read(place / RELIANCE / "reliance.json")
        assert record.points == same.points
        assert record.data_digest == same.data_digest

    def test_the_record_of_the_study_holds_their_numbers(self, finished):
        found, out, _ = finished
        assert StudyRecord.read(out / "study.json") == found.record
        runs = {run.folder: run for run in found.record.runs}
        (one,) = runs["standard-0"].analyses
        record = RelianceRecord.read(out / "standard-0" / RELIANCE / "reliance.json")
        assert (one.about, one.n, one.digests["model"]) == ("reliance", 40, record.model_digest)
        figures = {(figure.at, figure.name): figure for figure in one.figures}
        for at, point in zip(("rho 0.1", "rho 0.5", "rho 0.9 (own)"), record.points, strict=True):
            assert figures[at, "observed"].value == point.observed.share
            assert figures[at, "reliance"].value == point.reliance.share
            assert figures[at, "reliance"].interval == point.reliance.interval
            done = point.find("confounder", "random")
            assert figures[at, "do(confounder = random)"].value == done.accuracy.share
            assert figures[at, "gap under do(confounder = random)"].interval == done.gap_interval
        (effects,) = runs["amr-gmm-0"].analyses
        whole = EffectsRecord.read(out / "amr-gmm-0" / "analyze-effects-n30" / "effects.json")
        values = {figure.name: figure.value for figure in effects.figures if not figure.at}
        assert [values[name] for name in ("Adv", "CF", "CC", "AC")] == [kind.accuracy.share for kind in whole.kinds]
        assert values["|g(Z) - Z|"] == whole.distance.value
        assert values["KL of clean, base"] == whole.distances[0].clean.value
        assert runs["amr-gmm-0"].results == ()
        assert [one.about for one in runs["causaladv-m-0"].analyses] == ["reliance", "style"]
        text = (out / "study.json").read_text()
        assert "png" not in text
        assert str(out) not in text

    def test_page_and_table_show_them(self, finished):
        found, out, _ = finished
        page = (out / "report.html").read_text()
        for words in ("Causal reliance: accuracy as observed", "Causal effects: accuracy of the four",
                      "Content and style: ", "Causal reliance: 2 analyses side by side"):  # fmt: skip
            assert words in page
        rows = list(csv.DictReader((out / "analyses.csv").read_text().splitlines()))
        assert len(rows) == sum(len(one.figures) for run in found.record.runs for one in run.analyses)
        row = next(row for row in rows if row["figure"] == "reliance" and row["at"] == "rho 0.5")
        record = RelianceRecord.read(out / "standard-0" / RELIANCE / "reliance.json")
        assert float(row["value"]) == record.points[1].reliance.share
        assert (row["method"], row["analysis"], row["n"]) == ("standard", RELIANCE, "40")

    @pytest.mark.usefixtures("_no_page")
    def test_what_is_done_is_left_alone_and_what_is_left_is_made(self, copy):
        told, before = Told(), contents(copy)
        study(DEFINITION, out=copy, monitor=told)
        after = contents(copy)
        assert told.messages == []
        assert {name for name in before if after[name] != before[name]} <= {"study.json", "report.html"}
        (copy / "standard-0" / RELIANCE / "reliance.json").unlink()  # as where the process was killed in it
        line = f"standard-0: training done, pgd-1-10 done, {RELIANCE} left"
        assert str(study(DEFINITION, out=copy, dry_run=True).status[0]) == line
        assert str(study(DEFINITION, out=copy, part="judge").status[0]) == line
        with held(copy / "standard-0"):
            assert str(study(DEFINITION, out=copy, part="analyze").status[0]).startswith(line)
        assert study(DEFINITION, out=copy, part="table").record.missing == (line,)
        assert study(DEFINITION, out=copy, part="analyze").status[0].complete
        name = f"standard-0/{RELIANCE}/reliance.json"
        one, other = (RelianceRecord.from_json(found[name]) for found in (contents(copy), before))
        assert one.points == other.points

    @pytest.mark.parametrize(
        ("change", "match"),
        [
            ({"n": 41}, f"{RELIANCE}/reliance.json: n: got 41; expected 40, as the study asks"),
            ({"seed": 1}, "reliance.json: seed: got 1; expected 0"),
            ({"model_digest": "0"}, "reliance.json: model_digest: got '0'"),
            ({"data_digest": "0"}, "reliance.json: data_digest: got '0'"),
            ({"points": 1}, r"reliance.json: rho: got .*; expected 0.5 among them"),
            ({"kind": "style-analysis"}, "reliance.json: got 'style-analysis'"),
        ],
    )
    def test_records_that_answer_something_else_are_refused(self, copy, change, match):
        file = copy / "standard-0" / RELIANCE / "reliance.json"
        plain = json.loads(file.read_text())
        if "points" in change:
            change = {"points": plain["points"][:1]}
        file.write_text(json.dumps(plain | change))
        refused(match, out=copy)


@pytest.mark.parametrize(
    ("spec", "match"),
    [
        (asked({"kind": "relience"}), r"study: analyze.all\[0\]: kind: got 'relience'; .*did you mean 'reliance'"),
        (asked({"kind": "all"}), r"analyze.all\[0\]: kind: got 'all'; expected a single kind: checkpoints"),
        (asked({"kind": "style", "rho": 0.5}), r"analyze.all\[0\]: rho: got '0.5'; expected none with kind style"),
        (asked({"kind": "reliance", "rho": 1.5}), r"analyze.all\[0\]: rho: got '1.5'; expected a probability"),
        (asked({"kind": "reliance", "n": 0}), r"analyze.all\[0\]: n: got 0; expected at least 1"),
        (asked({"kind": "reliance", "step": 0}), r"analyze.all\[0\] key: got 'step'; .*did you mean 'steps'"),
        (asked({}), r"analyze.all\[0\]: kind: got None; expected a value"),
        (asked({"kind": "reliance"}, {"kind": "reliance"}), "analyze: standard: got 'analyze-reliance'; .* once"),
        (asked(analyze={"random": []}), "study: analyze: got 'random'; expected one of all, det"),
        (asked(analyze={"all": {"kind": "reliance"}}), "study: analyze.all: got .* a list of analyses"),
        (asked(runs=[{"recipe": "standard", "analyze": ["style"]}]), r"runs\[0\]: analyze\[0\]: got 'style'"),
        (asked({"kind": "style"}), r"tiny: runs\[0\]: analyze: kind: got 'style'; expected a kind that fits standard, "
         "which is trained with standard; this one needs a style branch"),
        (asked({"kind": "style"}, recipe="causaladv-m", set={"objective.alpha": 0}), "got 'style'; .* a style branch"),
        (asked({"kind": "checkpoints"}, recipe="causaladv-m"), "got 'checkpoints'; .* a style branch and kept epochs"),
        (asked({"kind": "effects"}), "got 'effects'; .* this one needs a hypothesis model h"),
        (asked({"kind": "exposure"}), "got 'exposure'; .* this one needs a network behind a sampler"),
        (asked({"kind": "pictures"}, recipe="ciiv"), "got 'pictures'; .* a network that can be cut"),
        (asked({"kind": "instruments"}, recipe="smoothing"), "got 'instruments'; .* a network that can be cut"),
        (asked({"kind": "reliance", "n": 361}), "standard-0: analyze: n: got 361; expected between .* 360 images"),
        (asked({"kind": "reliance"}, data="digits"), "standard-0: analyze: kind: got 'reliance'; expected a kind that "
         "fits the data, digits; this one needs data with do-operations"),
    ],
)  # fmt: skip
def test_faults_are_one_line_before_anything_is_trained(spec, match, tmp_path):
    refused(match, spec, out=tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_missing_library_is_said_before_anything_is_trained(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "linearmodels", None)
    refused("standard-0: linearmodels: got .* pip install", asked({"kind": "instruments"}), out=tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_what_fits_a_recipe_is_what_fits_its_run(finished):
    assert set(FITS) == set(KINDS)
    for name in ("standard-0", "causaladv-m-0", "amr-gmm-0"):
        loaded = load_run(finished[1] / name)
        for kind, fits in FITS.items():
            look = Look(run=str(finished[1] / name), kind=kind)
            try:
                ready = KINDS[kind].ready(look, loaded, loaded.recipe) is not None
            except InputError:  # no epoch was kept
                ready = False
            assert fits(loaded.recipe) == ready, (name, kind)


def test_hosts_with_style_and_kinds_of_models(tmp_path):
    runs = [{"recipe": "pgd-at"}, {"recipe": "ciiv"},
            {"recipe": "fair/causaladv-m", "stages": {"base": "pgd-at"}, "analyze": [{"kind": "style"}]}]  # fmt: skip
    kinds = {"deterministic": [{"kind": "pictures"}], "stochastic": [{"kind": "exposure"}], "all": []}
    spec = DEFINITION | {"runs": runs, "judge": {"all": [{"suite": "adaptive"}]}, "analyze": kinds}
    found = study_plan.planned(study_file.read(spec), tmp_path)
    assert [[one.kind for one in run.analyses] for run in found] == [["pictures"], ["exposure"], ["pictures", "style"]]


def test_options_name_the_folder():
    one = Analysis(kind="reliance", rho="sweep", n=600, sample=2)
    assert one.name == "analyze-reliance-n600-sample2-rhosweep"
    assert Analysis(kind="reliance", rho=0.5).name == Analysis(kind="reliance", rho=(0.5,)).name
    assert Analysis(kind="pictures", layer="blocks.2", steps=9).name == "analyze-pictures-layerblocks.2-steps9"


def test_every_kind_has_its_numbers():
    made = {"checkpoints": make_checkpoints(),
            "effects": make_effects(), "exposure": make_exposure(""), "instruments": make_instruments(),
            "pictures": make_pictures(""), "reliance": make_reliance(), "style": make_style("")}  # fmt: skip
    assert set(made) == set(KINDS)
    for kind, record in made.items():
        found = analysis_result(Analysis(kind=kind), record)
        names = [(figure.at, figure.name) for figure in found.figures]
        assert names
        assert len(set(names)) == len(names)


class TestSeveralDataSets:
    SPEC = DEFINITION | {
        "data": {"low": "digits+patch:rho=1/10", "high": "digits+patch:rho=0.9"},
        "analyze": {"all": [{"kind": "reliance", "n": 20}]},
        "runs": [
            {"recipe": "standard"},
            {"recipe": "pgd-at", "control": "standard", "seeds": [0, 1], "set": {"epochs": 2}},
            {"recipe": "trades", "data": "digits+tint:rho=1"},
            {"recipe": "amr-gmm", "stages": {"base": "standard"}, "judge": False},
        ],
    }  # fmt: skip

    def plan(self, out, data=None, **changes):
        changed = {**self.SPEC, **changes}
        changed["runs"][1] = changed["runs"][1] | {"seeds": [0]}
        return study_plan.planned(study_file.read(changed), out, data)

    def test_each_method_is_trained_on_each_against_its_control_there(self, tmp_path):
        runs = self.plan(tmp_path)
        assert [(run.name, run.control, run.path.name) for run in runs] == [
            ("standard/low", None, "standard-low-0"),
            ("standard/high", None, "standard-high-0"),
            ("pgd-at/low", "standard/low", "pgd-at-low-0"),
            ("pgd-at/high", "standard/high", "pgd-at-high-0"),
            ("trades", None, "trades-0"),
            ("amr-gmm/low", None, "amr-gmm-low-0"),
            ("amr-gmm/high", None, "amr-gmm-high-0"),
        ]
        assert [run.data for run in runs[:2]] == list(self.SPEC["data"].values())
        assert runs[4].data == "digits+tint:rho=1"
        assert runs[-1].grounds == (tmp_path / "standard-high-0",)
        assert {run.changes["epochs"] for run in runs if run.method == "pgd-at"} == {2}
        assert [run.name for run in study_plan.selected(runs, ["pgd-at"])] == ["pgd-at/low", "pgd-at/high"]
        assert [run.name for run in study_plan.selected(runs, ["pgd-at/low"])] == ["pgd-at/low"]
        moved = self.plan(tmp_path, "my/digits")
        assert [run.data for run in moved[:2]] == ["my/digits+patch:rho=1/10", "my/digits+patch:rho=0.9"]

    def test_all_of_it_is_one_study(self, tmp_path):
        runs = [{"recipe": "standard"}, {"recipe": "mixup", "control": "standard"}]
        found = study(self.SPEC | {"runs": runs}, out=tmp_path).record
        assert found.definition["data"] == self.SPEC["data"]
        assert [run["recipe"] for run in found.definition["runs"]] == ["standard", "mixup"]
        assert [(test.method, test.control) for test in found.tests] == [
            ("mixup/low", "standard/low"), ("mixup/high", "standard/high")
        ]  # fmt: skip
        assert all(test.test.robust is not None for test in found.tests)
        own = {run.name: {figure.at for figure in run.analyses[0].figures} for run in found.runs}
        assert own["mixup/low"] == {"rho 0.1 (own)"}
        assert own["standard/high"] == {"rho 0.9 (own)"}

    @pytest.mark.parametrize(
        ("changes", "match"),
        [
            ({"data": {}}, "study: data: got {}; expected a data set, or several by name"),
            ({"data": {"../x": "digits"}}, "study: data: got '../x'; expected letters, digits"),
            ({"data": {"a": "digits", "b": 3}}, "study: data: got .* expected a data set, or several by name"),
            ({"data": ["digits"]}, r"study: data: got \['digits'\]; expected a data set, or several by name"),
            ({"runs": [{"recipe": "standard"}, {"recipe": "mixup", "label": "standard/low", "data": "digits"}]},
             "different names"),
            ({"runs": [{"recipe": "standard"}, {"recipe": "mixup", "data": "digits", "control": "standard"}]},
             r"runs\[1\]: control: got 'standard'; expected a run on the same data, digits"),
            ({"judge": {"all": [{"suite": "pgd-1", "transfer": ["standard"]}]}}, "transfer: got 'standard'; .*several"),
        ],
    )  # fmt: skip
    def test_faults(self, changes, match, tmp_path):
        refused(match, self.SPEC | changes, out=tmp_path / "new")
        assert not (tmp_path / "new").exists()
