"""The job behind ``deconfound analyze``: on real runs of CausalAdv, and everything that does not fit."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pytest
import torch

import deconfound
from deconfound.errors import InputError
from deconfound.functional.statistics import wilson_interval
from deconfound.functional.style import left_out
from deconfound.models import split_model
from deconfound.recipes.analysing import KINDS, Look, default_folder, look_into
from deconfound.recipes.loading import load_run
from deconfound.recipes.players import restored
from deconfound.recipes.reporting import collect, write_report
from deconfound.recipes.training import train
from deconfound.records import StyleRecord
from deconfound.store.weights import read_weights, write_weights
from jobs import Told, contents, images

TINY = {"epochs": 1, "steps": 2, "selection.steps": 1}
FILES = {"style.json", "style.csv", "style-accuracy.svg", "style-neighbours.png"}


@pytest.fixture(scope="module")
def causal(tmp_path_factory):
    """A run of causaladv-m on digits, one epoch; not to be written to."""
    return train("causaladv-m", out=tmp_path_factory.mktemp("runs") / "m", changes=TINY).path


@pytest.fixture(scope="module")
def done(causal, tmp_path_factory):
    """The analysis of its first 60 test images."""
    monitor = Told()
    record, files = look_into(look(causal), out=tmp_path_factory.mktemp("analysis"), monitor=monitor)
    return record, files, monitor


@pytest.fixture
def run(causal, tmp_path):
    return shutil.copytree(causal, tmp_path / "run")


def look(run, **changes):
    return Look(**{"run": str(run), "kind": "style", "n": 60} | changes)


class TestARun:
    def test_record_and_files(self, done):
        record, files, monitor = done
        assert {path.name for path in files} == {path.name for path in files[0].parent.iterdir()} == FILES
        assert files[0].name == "style.json"
        assert StyleRecord.read(files[0]) == record
        assert (record.defence, record.data, record.n, record.seed) == ("causaladv-m", "digits[test]", 60, 0)
        assert (record.threat.norm, record.threat.eps, record.dimension) == ("linf", 0.1, 100)
        assert record.attack.name == "pgd-20"
        assert record.attack.settings["steps"] == 20
        assert record.attack.settings["keep"] == "last"
        assert record.training["recipe"] == "causaladv-m"
        assert monitor.started == [("pgd-20", 60, 0)]
        assert monitor.values[-1][0] == 60

    def test_figures_are_those_of_the_network_and_its_branch(self, causal, done):
        record = done[0]
        loaded = load_run(causal)
        branch = restored(causal, loaded, loaded.recipe).players()["style"]
        split = split_model(loaded.model)
        labels = torch.tensor(load_labels(60))
        with torch.no_grad():
            features = split.features(images(60))
            right = int((split.head(features).argmax(1) == labels).sum())
            basis = branch.basis(split.last.weight)
            guessed = int((branch.plain_logits(branch.style(features, basis.matrix)).argmax(1) == labels).sum())
        assert record.content.natural.share == right / 60
        assert record.content.natural.interval == wilson_interval(right, 60)
        exact = record.trained
        assert (exact.name, exact.removed) == (
            "exact",
            left_out(split.last.weight @ branch.content.covariance[0], basis.matrix),
        )
        assert exact.predictor.natural.share == guessed / 60

    def test_exact_does_not_correlate_and_deflation_does(self, done):
        exact, deflated = done[0].bases
        assert exact.leakage < 1e-5
        assert exact.stored.largest < 1e-4
        assert deflated.leakage > 0.05
        assert deflated.stored.largest > 0.2

    def test_the_attack_works_and_all_shares_have_intervals(self, done):
        record = done[0]
        assert record.content.adversarial.share < record.content.natural.share
        for reader in (record.content, *(basis.predictor for basis in record.bases)):
            for found in (reader.natural, reader.adversarial):
                assert found.interval == wilson_interval(round(found.share * 60), 60)
            assert reader.divergence >= 0

    def test_the_table_beside_it_is_the_record(self, done):
        record, files, _ = done
        rows = list(csv.DictReader((files[0].parent / "style.csv").read_text().splitlines()))
        assert [(row["reader"], row["basis"]) for row in rows] == [
            ("content", ""), ("style", "exact"), ("style", "deflation"),
        ]  # fmt: skip
        assert float(rows[0]["natural_accuracy"]) == record.content.natural.share
        for row, basis in zip(rows[1:], record.bases, strict=True):
            assert float(row["correlation_largest"]) == basis.stored.largest
            assert float(row["held_out_mean"]) == basis.held_out.mean
            assert float(row["shift"]) == basis.predictor.shift
            assert float(row["adversarial_low"]) == basis.predictor.adversarial.interval[0]
        assert {(row["n"], row["seed"], row["norm"], row["steps"]) for row in rows} == {("60", "0", "linf", "20")}

    def test_batch_size_does_not_matter(self, causal, done, tmp_path):
        again = look_into(look(causal, batch_size=13), out=tmp_path)[0]
        for first, second in zip(done[0].bases, again.bases, strict=True):
            assert second.predictor.adversarial == first.predictor.adversarial
            assert second.predictor.shift == pytest.approx(first.predictor.shift, rel=1e-5)
            assert second.held_out.largest == pytest.approx(first.held_out.largest, rel=1e-4)
        assert again.content.adversarial == done[0].content.adversarial

    def test_from_python_by_name(self, causal, done, tmp_path):
        record, files = deconfound.analyze(causal, "style", n=60, out=tmp_path / "here")
        assert files[0] == tmp_path / "here" / "style.json"
        assert record.model_copy(update={"seconds": 0.0}) == done[0].model_copy(update={"seconds": 0.0})

    def test_the_run_itself_is_left_as_it_is(self, run, tmp_path):
        before = contents(run)
        look_into(look(run, n=5), out=tmp_path / "elsewhere")
        assert contents(run) == before

    def test_the_deflated_basis_is_the_trained_one_where_the_recipe_says_so(self, tmp_path):
        changes = TINY | {"objective.basis": "deflation", "selection.size": 1300}
        path = train("causaladv-t", out=tmp_path / "t", changes=changes).path
        record = look_into(look(path, n=20))[0]
        assert record.trained.name == "deflation"
        assert any("trained on the deflation basis only" in note for note in record.notes)
        assert (path / "analyze-style-n20" / "style.json").is_file()


class TestItsPlace:
    def test_into_the_run_by_default_and_named_by_what_differs(self, run):
        _, files = look_into(look(run, n=8, sample=2, seed=5, data="digits"))
        assert files[0] == run / "analyze-style-digits-n8-sample2-seed5" / "style.json"
        _, files = look_into(look(run / "model.safetensors", n=8))
        assert files[0] == run / "analyze-style-n8" / "style.json"

    @pytest.mark.parametrize(
        ("data", "folder"),
        [
            ("digits+patch:rho=1/10", "analyze-style-digits+patch-rho=1-10-n60"),
            ("digits+tint:rho=9/10", "analyze-style-digits+tint-rho=9-10-n60"),
            ("data/mnist+tint:rho=9/10", "analyze-style-mnist+tint-rho=9-10-n60"),
        ],
    )
    def test_data_with_a_fraction_in_their_name_have_places_of_their_own(self, data, folder):
        assert default_folder(look("runs/m", data=data)) == Path("runs/m") / folder

    def test_a_finished_one_is_kept_unless_told(self, run):
        _, files = look_into(look(run, n=8))
        before = contents(run)
        with pytest.raises(InputError, match=r"^out: got '.*'; expected a folder without a finished .*--overwrite"):
            look_into(look(run, n=8))
        assert contents(run) == before
        again = look_into(look(run, n=8, seed=1), out=files[0].parent, overwrite=True)[0]
        assert StyleRecord.read(files[0]) == again
        assert again.seed == 1

    def test_other_files_in_the_folder_stay(self, run, tmp_path):
        (tmp_path / "mine").mkdir()
        (tmp_path / "mine" / "thesis.tex").write_text("x")
        look_into(look(run, n=8), out=tmp_path / "mine")
        assert {path.name for path in (tmp_path / "mine").iterdir()} == FILES | {"thesis.tex"}

    @pytest.mark.parametrize("below", ["file", "file/below/it"])
    def test_a_file_in_the_way(self, run, tmp_path, below):
        (tmp_path / "file").write_text("x")
        with pytest.raises(InputError, match=r"^out: .*a folder; a file lies at"):
            look_into(look(run, n=8), out=tmp_path / below)

    def test_a_run_that_is_replaced_takes_its_analyses_with_it(self, run):
        look_into(look(run, n=8))
        train("standard", out=run, changes={"epochs": 1}, overwrite=True)
        assert not list(run.glob("analyze-*"))


class TestBadInput:
    def refused(self, match, request, out=None):
        with pytest.raises(InputError, match=match) as caught:
            look_into(request, out=out)
        assert "\n" not in str(caught.value)

    def test_a_kind_that_does_not_exist(self):
        with pytest.raises(
            InputError, match=r"^kind: got 'stile'; expected one of all, .*style \(did you mean 'style'\?\)"
        ):
            look("run", kind="stile")

    def test_a_run_that_it_does_not_fit_says_which_it_fits(self, trained):
        rule = r"was trained with pgd-at; this one needs a style branch.*causaladv-m and causaladv-t"
        self.refused(rf"^kind: got 'style'; expected a kind that fits the run: .*{rule}", look(trained.path))
        assert not list(trained.path.glob("analyze-*"))

    def test_alpha_0_has_no_style(self, tmp_path):
        path = train(
            "causaladv-m", out=tmp_path / "run", changes=TINY | {"objective.alpha": 0, "selection.size": 1300}
        ).path
        self.refused("with alpha above 0", look(path))

    @pytest.mark.parametrize("damage", ["no file", "no style", "other shape", "not trained"])
    def test_a_run_without_fitting_players(self, run, damage):
        file = run / "players.safetensors"
        tensors, metadata = read_weights(file)
        expected = "players"
        if damage == "no file":
            file.unlink()
        elif damage == "no style":
            kept = {name: value for name, value in tensors.items() if not name.startswith("style/")}
            write_weights(file, kept, metadata)
        elif damage == "other shape":
            write_weights(file, tensors | {"style/start": torch.eye(3)}, metadata)
        else:
            expected = "style branch has seen images"
            write_weights(file, tensors | {"style/content.count": torch.zeros(1, dtype=torch.int64)}, metadata)
        before = contents(run)
        self.refused(expected, look(run))
        assert contents(run) == before

    @pytest.mark.parametrize(
        ("changes", "match"),
        [
            ({"n": 361}, r"^n: got 361; expected between 1 and the split's 360 images"),
            ({"n": 0}, "^n: got 0"),
            ({"seed": -1}, "^seed: got -1"),
            ({"batch_size": 0}, "^batch_size: got 0"),
            ({"device": "abacus"}, "^device: got 'abacus'"),
            ({"run": "nowhere"}, "^run: got 'nowhere'; expected a folder with model.safetensors"),
            ({"data": "digit"}, "^data: got 'digit'"),
        ],
    )
    def test_settings(self, causal, tmp_path, changes, match):
        with pytest.raises(InputError, match=match):
            look_into(look(causal, **changes) if "run" not in changes else look(**changes), out=tmp_path / "new")
        assert not (tmp_path / "new").exists()

    def test_data_that_no_recipe_names(self, run):
        (run / "recipe.yaml").unlink()
        self.refused(r"^data: got None; expected a data set \(--data\)", look(run))


class TestTheReport:
    @pytest.fixture
    def judged(self, run, done):
        from deconfound.recipes.evaluating import Judging
        from deconfound.recipes.targets import Target, evaluate_target

        evaluate_target(Target(target=str(run), n=10), Judging(suite="quick", checks=False, curve=False))
        shutil.copytree(done[1][0].parent, run / "analyze-style-n60")
        return run

    def test_it_is_picked_up_once(self, judged, done, tmp_path):
        found = collect([judged, judged / "analyze-style-n60" / "style.json"])
        assert found.analyses == [done[0]]
        page = write_report([judged], tmp_path / "page.html").read_text()
        assert "Content and style: m (causaladv-m)" in page

    def test_a_newer_schema_is_refused(self, judged, tmp_path):
        file = judged / "analyze-style-n60" / "style.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"schema_version": 99}))
        with pytest.raises(InputError, match=r"style\.json: schema_version: got 99; expected at most 1; update"):
            write_report([judged], tmp_path / "page.html")
        assert not (tmp_path / "page.html").exists()


def test_every_kind_says_what_it_is_and_what_it_fits():
    for name, kind in KINDS.items():
        assert kind.about, name
        assert kind.fits, name


def load_labels(count):
    from deconfound.data import load

    return load("digits").test.labels[:count].tolist()
