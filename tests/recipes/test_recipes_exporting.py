"""The job behind ``deconfound export``: weights, graphs and cards of real runs, and everything that does not fit."""

from __future__ import annotations

import json
import re
import shutil
import sys

import onnx
import pytest
import torch

import deconfound
from deconfound.cli import main
from deconfound.data import load as load_data
from deconfound.errors import InputError
from deconfound.models.graph import run_graph
from deconfound.recipes import exporting
from deconfound.recipes.evaluating import Judging
from deconfound.recipes.exporting import NAMES, export
from deconfound.recipes.loading import load_run
from deconfound.recipes.targets import Target, evaluate_target
from deconfound.recipes.training import train
from deconfound.records import EvaluationRecord, ModelCard, TrainingRecord
from jobs import contents, images


@pytest.fixture(scope="module")
def judged(tmp_path_factory):
    """A run of pgd-at on digits, one epoch, judged on 20 images; not to be written to."""
    run = tmp_path_factory.mktemp("runs") / "first"
    train("pgd-at", out=run, changes={"epochs": 1, "steps": 2, "selection.steps": 1, "eps_warmup": 0.5})
    evaluate_target(Target(target=str(run), n=20), Judging(suite="quick", curve=False, checks=False))
    return run


@pytest.fixture(scope="module")
def random(tmp_path_factory):
    """A run of ciiv; nobody judged it."""
    run = tmp_path_factory.mktemp("runs") / "views"
    train("ciiv", out=run, changes={"epochs": 1, "sampler.loops": 2})
    return run


@pytest.fixture(scope="module")
def exported(judged, tmp_path_factory):
    out = tmp_path_factory.mktemp("out") / "below" / "mine"
    card, files = export(judged, out, formats="safetensors,onnx")
    return out, card, files


@pytest.fixture
def run(judged, tmp_path):
    return shutil.copytree(judged, tmp_path / "run")


class TestAnExport:
    def test_files(self, exported, judged):
        out, card, files = exported
        assert [path.name for path in files] == ["model.safetensors", "model.onnx", "card.md", "card.json"]
        assert {path.name for path in out.iterdir()} == {path.name for path in files}
        assert (out / "model.safetensors").read_bytes() == (judged / "model.safetensors").read_bytes()
        assert ModelCard.read(out / "card.json") == card
        assert [file.size for file in card.files] == [path.stat().st_size for path in files[:2]]

    def test_weights_load_and_are_judged_like_the_run(self, exported, judged):
        out, card, _ = exported
        pictures = images(8)
        with torch.no_grad():
            expected = deconfound.load(judged)(pictures)
            assert torch.equal(deconfound.load(out)(pictures), expected)
            assert torch.equal(deconfound.load(out / "model.safetensors")(pictures), expected)
        assert load_run(out).digest == card.model_digest

    def test_the_graph_has_the_logits_of_the_network(self, exported, judged):
        out, card, _ = exported
        test = load_data("digits").test
        pictures = next(test.batches([torch.arange(len(test))])).images
        with torch.no_grad():
            expected = deconfound.load(judged)(pictures)
        assert float((run_graph((out / "model.onnx").read_bytes(), pictures) - expected).abs().max()) < 1e-4
        graph = card.files[1]
        assert graph.compared == 16
        assert 0 <= graph.difference < 1e-4
        assert not graph.stands_in

    def test_the_graph_says_what_it_is(self, exported):
        out, card, _ = exported
        told = {part.key: part.value for part in onnx.load(out / "model.onnx").metadata_props}
        assert told["model_digest"] == card.model_digest
        assert (told["defence"], told["architecture"], told["stands_in"]) == ("pgd-at", "small", "no")
        assert told["class_names"] == "0, 1, 2, 3, 4, 5, 6, 7, 8, 9"

    def test_the_card_knows_the_training(self, exported, judged):
        _, card, _ = exported
        record = TrainingRecord.read(judged / "record.json")
        assert card.training.recipe == record.recipe
        assert card.training.recipe_digest == record.recipe_digest
        assert (card.name, card.defence, card.adversarial, card.random) == ("first", "pgd-at", True, False)
        assert (card.shape, card.threat.norm, card.threat.eps) == ((1, 16, 16), "linf", 0.1)

    def test_no_accuracy_without_what_it_needs(self, exported, judged):
        out, card, _ = exported
        record = EvaluationRecord.read(next(judged.glob("evaluate-*.json")))
        (row,) = card.evaluations
        assert (row.clean_accuracy, row.robust_accuracy, row.n, row.seed) == (
            record.clean_accuracy,
            record.robust_accuracy,
            20,
            0,
        )
        (line,) = (line for line in (out / "card.md").read_text().splitlines() if "%" in line and line.startswith("|"))
        low, high = (f"{100 * end:.1f}" for end in record.robust_interval)
        for part in ("linf 0.1", "quick", "| 20 | 0 |", f"[{low}, {high}]", "UNRELIABLE: the masking checks"):
            assert part in line

    def test_python_on_the_card_runs(self, exported, monkeypatch):
        out, _, _ = exported
        monkeypatch.chdir(out)
        text = (out / "card.md").read_text()
        blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
        assert len(blocks) == 2
        found = [{}, {}]
        for block, names in zip(blocks, found, strict=True):
            exec(compile(block, "card.md", "exec"), names)
            assert names["classes"].shape == (4,)
            assert names["logits"].shape == (4, 10)

    def test_the_command_on_the_card_runs(self, exported, monkeypatch, tmp_path):
        out, card, _ = exported
        monkeypatch.chdir(out)
        (line,) = re.findall(r"```sh\n(.*)\n```", (out / "card.md").read_text())
        _, *words = line.split()
        again = tmp_path / "again.json"
        assert main([*words, "--suite", "quick", "-n", "5", "--quiet", "--out", str(again)]) == 0
        assert EvaluationRecord.read(again).model_digest == card.model_digest


class TestARandomNetwork:
    def test_a_graph_is_refused_by_default(self, random, tmp_path):
        with pytest.raises(InputError, match=r"safetensors alone, or --stochastic surrogate: CiiV draws"):
            export(random, tmp_path / "out", formats="onnx")
        assert not (tmp_path / "out").exists()

    def test_its_surrogate_is_named_so_everywhere(self, random, tmp_path):
        card, files = export(random, tmp_path, formats=["onnx"], stochastic="surrogate")
        assert [path.name for path in files] == ["surrogate.onnx", "card.md", "card.json"]
        model = deconfound.load(random)
        pictures = images(12)
        with torch.no_grad():
            expected = model.expectation()(pictures)
        graph = (tmp_path / "surrogate.onnx").read_bytes()
        assert float((run_graph(graph, pictures) - expected).abs().max()) < 1e-4
        proto = onnx.load_from_string(graph)
        told = {part.key: part.value for part in proto.metadata_props}
        assert (proto.graph.name, told["stands_in"]) == ("surrogate", "yes")
        assert "ExpectedSurrogate. Surrogate B" in told["about"]
        assert card.files[0].stands_in
        assert card.random
        text = (tmp_path / "card.md").read_text()
        assert "surrogate.onnx is a surrogate, not the network that was trained" in text
        assert "No accuracy on this card is its" in text

    def test_its_weights_need_no_surrogate(self, random, tmp_path, monkeypatch):
        card, _ = export(random, tmp_path)
        assert [file.name for file in card.files] == ["model.safetensors"]
        text = (tmp_path / "card.md").read_text()
        assert "**Nothing was evaluated.**" in text
        assert " %" not in text.replace("95 %", "")
        (block,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
        monkeypatch.chdir(tmp_path)
        names = {}
        exec(compile(block, "card.md", "exec"), names)
        assert names["draws"].shape == (9, 4, 10)
        assert names["classes"].shape == (4,)

    def test_one_without_a_surrogate(self, random, tmp_path, monkeypatch):
        model = deconfound.load(random)

        class Drawn(torch.nn.Module):
            def draw(self, pictures, streams, draws):
                return model.draw(pictures, streams, draws)

        loaded = load_run(random)
        monkeypatch.setattr(exporting, "load_run", lambda _: type(loaded)(**vars(loaded) | {"model": Drawn()}))
        with pytest.raises(InputError, match=r"Drawn draws its predictions, .* has no deterministic surrogate"):
            export(random, tmp_path, formats="onnx", stochastic="surrogate")


class TestRecords:
    def test_those_in_the_run_folder_of_other_weights_are_left_out_and_named(self, run, tmp_path):
        file = next(run.glob("evaluate-*.json"))
        data = json.loads(file.read_text()) | {"model_digest": "0" * 64}
        (run / "evaluate-old.json").write_text(json.dumps(data))
        card, _ = export(run, tmp_path / "out")
        assert [row.file for row in card.evaluations] == [file.name]
        assert card.notes == ("Left out: evaluate-old.json in the run folder is about other weights.",)
        assert "evaluate-old.json in the run folder" in (tmp_path / "out" / "card.md").read_text()

    def test_given_ones_replace_those(self, run, tmp_path):
        file = next(run.glob("evaluate-*.json"))
        elsewhere = tmp_path / "else.json"
        data = json.loads(file.read_text())
        data["verdict"] |= {"reliable": False, "reasons": ["gradients | vanish"]}
        elsewhere.write_text(json.dumps(data))
        card, _ = export(run, tmp_path / "out", records=[elsewhere])
        (row,) = card.evaluations
        assert row.file == "else.json"
        assert r"UNRELIABLE: gradients \| vanish" in (tmp_path / "out" / "card.md").read_text()

    def test_given_ones_of_other_weights_are_refused(self, run, tmp_path):
        file = next(run.glob("evaluate-*.json"))
        data = json.loads(file.read_text()) | {"model_digest": "0" * 64}
        (tmp_path / "old.json").write_text(json.dumps(data))
        with pytest.raises(InputError, match=r"record: got .*old.json'; expected a record of these weights"):
            export(run, tmp_path / "out", records=[tmp_path / "old.json"])
        assert not (tmp_path / "out").exists()

    def test_what_is_no_evaluation(self, run, tmp_path):
        for name in ("record.json", "recipe.yaml"):
            with pytest.raises(InputError, match=r"an evaluation record, as deconfound evaluate writes it"):
                export(run, tmp_path / "out", records=[run / name])
        with pytest.raises(InputError, match=r"record: got .* expected a file that exists"):
            export(run, tmp_path / "out", records=[tmp_path / "nowhere.json"])


class TestBadInput:
    def test_an_unfinished_run(self, run, tmp_path):
        (run / "record.json").unlink()
        with pytest.raises(InputError, match=r"expected a finished run: record.json is missing.*--resume"):
            export(run, tmp_path / "out")
        (run / "model.safetensors").unlink()
        with pytest.raises(InputError, match=r"expected a finished run"):
            export(run, tmp_path / "out")

    def test_a_record_of_another_training(self, run, tmp_path):
        data = json.loads((run / "record.json").read_text()) | {"recipe_digest": "0" * 64}
        (run / "record.json").write_text(json.dumps(data))
        with pytest.raises(InputError, match=r"weights and record.json of the same training"):
            export(run, tmp_path / "out")

    def test_bare_weights(self, run, tmp_path):
        torch.save(deconfound.load(run).state_dict(), tmp_path / "bare.pt")
        with pytest.raises(InputError, match=r"run: got .* expected weights written by train"):
            export(tmp_path / "bare.pt", tmp_path / "out")
        (tmp_path / "moved").mkdir()
        moved = shutil.copy(run / "model.safetensors", tmp_path / "moved")
        with pytest.raises(InputError, match=r"expected weights in their run folder: .*record.json is missing"):
            export(moved, tmp_path / "out")
        with pytest.raises(InputError, match=r"run: got 'nowhere'"):
            export("nowhere", tmp_path / "out")
        assert not (tmp_path / "out").exists()

    def test_formats(self, run, tmp_path):
        with pytest.raises(InputError, match=r"format: got 'onx'.*did you mean 'onnx'"):
            export(run, tmp_path / "out", formats="safetensors,onx")
        with pytest.raises(InputError, match=r"format: got ''"):
            export(run, tmp_path / "out", formats="")
        with pytest.raises(InputError, match=r"at least one of safetensors, onnx"):
            export(run, tmp_path / "out", formats=[])
        with pytest.raises(InputError, match=r"stochastic: got 'refuze'.*did you mean 'refuse'"):
            export(run, tmp_path / "out", stochastic="refuze")

    def test_a_missing_extra_is_said_before_the_run_is_read(self, tmp_path, monkeypatch):
        monkeypatch.setitem(sys.modules, "onnxruntime", None)
        with pytest.raises(InputError, match=r"pip install 'deconfound\[export\]'"):
            export("nowhere", tmp_path / "out", formats="onnx")

    def test_a_graph_that_differs_is_not_written(self, run, tmp_path, monkeypatch):
        monkeypatch.setattr(exporting, "run_graph", lambda graph, pictures: run_graph(graph, pictures) + 2e-4)
        monkeypatch.setattr(exporting, "TOLERANCE", 1e-6)
        with pytest.raises(InputError, match=r"a network whose graph gives the same logits .* they differ by 2.0e-04"):
            export(run, tmp_path / "out", formats="onnx")
        assert not (tmp_path / "out").exists()

    def test_what_lies_there_is_kept(self, run, tmp_path):
        out = tmp_path / "out"
        out.mkdir()
        (out / "notes.txt").write_text("mine")
        (out / "model.onnx").write_text("old")
        before = contents(out)
        with pytest.raises(InputError, match=r"a folder without model.onnx \(--overwrite replaces an export\)"):
            export(run, out)
        assert contents(out) == before
        export(run, out, overwrite=True)
        assert {path.name for path in out.iterdir()} == {"notes.txt", "model.safetensors", "card.md", "card.json"}
        for name in NAMES:
            assert (name in contents(out)) == (not name.endswith(".onnx"))

    def test_what_cannot_be_removed_is_one_line(self, run, tmp_path):
        (tmp_path / "out" / "surrogate.onnx").mkdir(parents=True)
        with pytest.raises(InputError, match=r"^out: got .*surrogate.onnx'; expected a file that can be removed \("):
            export(run, tmp_path / "out", overwrite=True)

    def test_places_that_are_no_folder_of_their_own(self, run, tmp_path):
        (tmp_path / "file").write_text("x")
        with pytest.raises(InputError, match=r"a folder; a file lies at"):
            export(run, tmp_path / "file" / "below")
        before = contents(run)
        with pytest.raises(InputError, match=r"a folder of its own; a run lies here"):
            export(run, run, overwrite=True)
        assert contents(run) == before


def test_where_the_data_lie_is_nobodys_business(tmp_path, monkeypatch):
    from PIL import Image

    for number in range(16):
        place = tmp_path / "secret" / ("train", "test")[number % 2] / "ab"[number // 2 % 2] / f"{number}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (16, 16), number * 10).save(place)
    changes = {"epochs": 1, "batch_size": 4, "model": "small", "selection.size": 0, "augmentation.flip": False}
    train("standard", data=str(tmp_path / "secret"), out=tmp_path / "run", changes=changes)
    export(tmp_path / "run", tmp_path / "out")
    for name in ("card.md", "card.json"):
        assert str(tmp_path) not in (tmp_path / "out" / name).read_text()
    assert "--data path/to/data" in (tmp_path / "out" / "card.md").read_text()
