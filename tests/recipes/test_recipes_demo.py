"""The demo from end to end, with short trainings."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from deconfound.attacks import budgets
from deconfound.attacks.budgets import Budget
from deconfound.errors import InputError
from deconfound.recipes import study_analyses
from deconfound.recipes.analysing import KINDS
from deconfound.recipes.collecting import collect_reliance
from deconfound.recipes.demo import against_controls, demo
from deconfound.recipes.reporting import collect
from deconfound.recipes.resolve import names
from deconfound.recipes.tour import TOUR
from deconfound.recipes.training import train
from deconfound.records import EvaluationRecord, PicturesRecord, TrainingRecord
from jobs import short_tour

TINY = short_tour(TOUR)
SHORTEST = replace(TINY, chapters=TINY.chapters[:1])
FEW = Budget(points=2, draws=1, steps=2, queries=4, spsa_steps=1, spsa_pairs=1, query_draws=1)


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    """A finished demo of everything, its budget next to nothing; not to be written to."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(budgets, "BUDGETS", dict(budgets.BUDGETS) | {"demo": FEW})
        return demo(tmp_path_factory.mktemp("shown") / "demo", tour=TINY)


class TestTheTour:
    def test_who_is_compared_is_trained_alike(self):
        """A method and its control: the same epochs, and where they build on one, the same base network."""
        chapters = {one.recipe: one for one in TOUR.chapters}
        assert set(chapters) <= set(names())
        for one in TOUR.chapters:
            if one.control:
                control = chapters[one.control]
                assert (one.base, one.changes) == (control.base, control.changes)
            assert "reliance" in one.analyses
        seen = [one.recipe for one in TOUR.chapters]
        for one in TOUR.chapters:
            for earlier in filter(None, (one.base, one.control)):
                assert seen.index(earlier) < seen.index(one.recipe)

    def test_every_kind_of_analysis_is_shown(self):
        kept = {"checkpoints"}  # needs a training that keeps its epochs
        assert {kind for one in TOUR.chapters for kind in one.analyses} == set(KINDS) - kept


class TestTheFiles:
    def test_what_is_left(self, shown):
        out = shown.page.parent
        assert {path.name for path in out.iterdir()} == {"runs", "results.json", "report.html"}
        assert {path.name for path in (out / "runs").iterdir()} == {one.folder for one in TINY.chapters}
        for one, training in zip(TINY.chapters, shown.trainings, strict=True):
            run = out / "runs" / one.folder
            assert TrainingRecord.read(run / "record.json") == training
            suites = {"adaptive"} if one.recipe == "ciiv" else {"quick", "adaptive"}
            judged = [EvaluationRecord.read(path) for path in run.glob("evaluate*.json")]
            assert {record.suite for record in judged} == suites
            assert all(record in shown.evaluations for record in judged)
            kinds = {path.name.removeprefix("analyze-").split("-")[0] for path in run.glob("analyze-*")}
            assert kinds == set(one.analyses)
        assert all(record.verdict.checks for record in shown.evaluations)
        assert all(bool(record.curve) == (record.suite == "adaptive") for record in shown.evaluations)
        assert all(record.gallery for record in shown.evaluations if record.suite == "quick")
        assert {record.budget for record in shown.evaluations} == {"demo"}

    def test_cafe_and_its_control_have_one_base(self, shown):
        trained = dict(zip((one.recipe for one in TINY.chapters), shown.trainings, strict=True))
        bases = {name: trained[name].stages["base"].model_digest for name in ("cafe/adv", "fair/adv")}
        runs = {record.defence: record.model_digest for record in shown.evaluations}
        assert set(bases.values()) == {runs["pgd-at"]}

    def test_results_hold_everything(self, shown):
        results = json.loads(shown.results.read_text())
        assert results["kind"] == "results"
        assert results["learned"] == list(shown.lessons.learned)
        read = [EvaluationRecord.from_json(json.dumps(part)) for part in results["evaluations"]]
        assert tuple(read) == shown.evaluations
        found = collect([shown.results])
        assert (tuple(found.evaluations), tuple(found.analyses)) == (shown.evaluations, shown.analyses)
        assert len(collect_reliance([shown.results])) == len(TINY.chapters)
        again = collect([shown.page.parent])  # runs and results say the same
        assert len(again.evaluations) == len(shown.evaluations)
        assert len(again.analyses) == len(shown.analyses)

    def test_pictures_are_of_the_causal_kinds(self, shown):
        (record,) = (one for one in shown.analyses if isinstance(one, PicturesRecord))
        kinds = [picture.kind for picture in record.images[0].features]
        assert kinds == ["natural", "adversarial", "adversarial_causal", "counterfactual"]

    def test_the_page(self, shown):
        page = shown.page.read_text()
        assert len(page.encode()) < 2_000_000
        assert all(one.recipe in page for one in TINY.chapters)
        for title in ("What was learned", "Causal reliance", "Content and style", "Instrument exposure",
                      "Causal effects", "Feature pictures", "Instrument diagnostics"):  # fmt: skip
            assert title in page


class TestLessons:
    def test_what_was_shortened_is_said(self, shown):
        first, *rest = shown.lessons.about
        assert first == (
            "Shortened: standard, pgd-at, causaladv-m and ciiv trained for 1 epoch, where their recipes have 40."
        )
        assert rest[0] == "Shortened: fair/adv and cafe/adv trained for 1 epoch, where their recipes have 8."
        assert rest[-1].startswith("Images: quick on 8 and adaptive on 2;")

    def test_each_causal_method_stands_beside_its_control(self, shown):
        evaluations = {(record.defence, record.suite): record for record in shown.evaluations}
        tests = against_controls(TINY, evaluations)
        assert [(one.method, one.control, one.question, one.test.n) for one in tests] == [
            ("causaladv-m", "pgd-at", "quick", 8),
            ("cafe/adv", "fair/adv", "quick", 8),
            ("causaladv-m", "pgd-at", "adaptive", 2),
            ("ciiv", "standard", "adaptive", 2),
            ("cafe/adv", "fair/adv", "adaptive", 2),
        ]
        assert [one.same_attacks for one in tests] == [True, True, False, False, True]
        for one in tests:
            a, b = (evaluations[name, one.question] for name in (one.method, one.control))
            stands = [{outcome.index for outcome in record.outcomes if outcome.broken_by is None} for record in (a, b)]
            both = {outcome.index for outcome in a.outcomes} & {outcome.index for outcome in b.outcomes}
            assert one.test.robust.only_first == len(both & stands[0] - stands[1])
            assert one.test.robust.adjusted_p_value >= one.test.robust.p_value
        text = "\n".join(shown.lessons.learned)
        for one in tests:
            assert any(one.method in line and f"its control {one.control}" in line for line in shown.lessons.learned), (
                text
            )


class TestTheFolder:
    def test_again_and_nothing_lost(self, tmp_path):
        out = tmp_path / "demo"
        run = out / "runs" / "standard"  # as an interrupted one leaves it
        train("standard", out=run, changes={"epochs": 1})
        (run / "analyze-style").mkdir()
        before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
        with pytest.raises(InputError, match="a demo lies here \\(--overwrite replaces it\\)"):
            demo(out, tour=SHORTEST)
        assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
        found = demo(out, overwrite=True, tour=SHORTEST)
        assert found.results.exists()
        assert not list((out / "runs" / "standard").glob("analyze-style*"))
        with pytest.raises(InputError, match="a demo lies here"):
            demo(out, tour=SHORTEST)

    @pytest.mark.parametrize("overwrite", [True, False])
    def test_other_content_is_left_alone(self, tmp_path, overwrite):
        (tmp_path / "thesis.tex").write_text("mine")
        with pytest.raises(InputError, match="this one holds something else"):
            demo(tmp_path, overwrite=overwrite)
        with pytest.raises(InputError, match="a file of this name exists"):
            demo(tmp_path / "thesis.tex", overwrite=overwrite)
        assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]

    def test_a_library_that_does_not_load_is_noticed_before_the_first_training(self, tmp_path, monkeypatch):
        def missing():
            raise InputError("captum", "ModuleNotFoundError", "a library that loads: pip install captum")

        monkeypatch.setattr(study_analyses, "_LIBRARIES", {"pictures": missing})
        with pytest.raises(InputError, match="a library that loads"):
            demo(tmp_path / "demo", tour=TINY)
        assert not (tmp_path / "demo").exists()
