"""Stages: trained first, resumed, reused when unchanged, given from outside, and refused where they do not fit."""

from __future__ import annotations

import shutil

import pytest
import torch

from deconfound.errors import InputError
from deconfound.objectives import AdversarialTraining, Help, Trades
from deconfound.recipes.entries import Entry, ObjectiveSettings, inner_attack
from deconfound.recipes.loading import load_run
from deconfound.recipes.players import restored
from deconfound.recipes.registry import OBJECTIVES
from deconfound.recipes.resolve import parse_changes, read_spec, resolve
from deconfound.recipes.stages import planned
from deconfound.recipes.training import train
from deconfound.records import TrainingRecord
from deconfound.store import CheckpointFile
from jobs import WEIGHTS, Told, contents, data_module, split

SMALL = {"batch_size": 16, "selection.size": 8, "model": "small", "selection.steps": 1}
STANDARD = {"stages.standard": {"epochs": 2, "batch_size": 16}}
HELP = SMALL | {"epochs": 2, "steps": 2, "objective.host.beta": 1} | STANDARD


@pytest.fixture(scope="module", autouse=True)
def _small_data():
    with pytest.MonkeyPatch.context() as patch:
        data_module(patch, "stage_data", train=split(88), test=split(20, seed=1))
        yield


def trained(changes=HELP, **settings):
    return train("help", data="stage_data:make", changes=changes, **settings)


def standard_run(out=None, data="stage_data:make", epochs=2):
    changes = {key: value for key, value in SMALL.items() if key != "selection.steps"}
    return train("standard", data=data, out=out, changes=changes | {"epochs": epochs})


def recipe(name, *words, family="digits"):
    return resolve(read_spec(name), data="digits", family=family, changes=parse_changes(words))


def weights(run):
    return {name: (run / name).read_bytes() for name in (*WEIGHTS, "metrics.jsonl", "recipe.yaml")}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A finished run of help; not to be written to."""
    return trained(out=tmp_path_factory.mktemp("whole") / "run").path


@pytest.fixture
def run(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "run")


def without_stages(changes=HELP):
    return {key: value for key, value in changes.items() if not key.startswith("stages")}


class TestPipeline:
    def test_the_stage_is_a_run_of_its_own_and_named_in_the_record(self, whole):
        stage = whole / "stages" / "standard"
        own, record = (TrainingRecord.read(place / "record.json") for place in (stage, whole))
        assert (own.recipe["recipe"], own.epochs_run, own.stages) == ("standard", 2, {})
        used = record.stages["standard"]
        assert (used.recipe, used.recipe_digest, used.epochs) == ("standard", own.recipe_digest, 2)
        assert used.model_digest == load_run(stage).digest
        assert not (stage / "stages").exists()
        alone = standard_run()
        for name, value in load_run(stage).model.state_dict().items():
            assert torch.equal(value, alone.model.state_dict()[name])

    def test_the_objective_is_put_together_again_from_the_run_alone(self, run):
        standard = load_run(run / "stages" / "standard").model.state_dict()
        shutil.rmtree(run / "stages")
        loaded = load_run(run)
        objective = restored(run, loaded, loaded.recipe)
        assert isinstance(objective, Help)
        assert isinstance(objective.objective, Trades)
        assert objective.objective.beta == 1
        found = objective.players()["standard"].state_dict()
        assert all(torch.equal(found[name], value) for name, value in standard.items())
        assert not any(p.requires_grad for p in objective.players()["standard"].parameters())

    def test_a_finished_run_stays_as_it_is(self, run):
        before, told = contents(run), Told()
        again = trained(out=run, resume=True, monitor=told)
        assert contents(run) == before
        assert told.messages == ["finished before; nothing is left to do"]
        assert again.record.stages.keys() == {"standard"}

    def test_a_finished_stage_is_reused_and_gives_the_same_bytes(self, run, whole):
        for name in ("record.json", "last.ckpt", "previous.ckpt", *WEIGHTS):
            (run / name).unlink(missing_ok=True)
        stage, told = contents(run / "stages"), Told()
        trained(out=run, resume=True, monitor=told)
        assert "stage standard: finished before; nothing is left to do" in told.messages
        assert contents(run / "stages") == stage
        assert weights(run) == weights(whole)

    @pytest.mark.parametrize("saves", [3, 14])
    def test_a_kill_is_resumed_bit_for_bit_in_the_stage_and_after_it(self, tmp_path, whole, monkeypatch, saves):
        run, save, count = tmp_path / "run", CheckpointFile.save, []

        def killing(self, state):
            save(self, state)
            count.append(1)
            if len(count) == saves:
                raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(CheckpointFile, "save", killing)
            with pytest.raises(KeyboardInterrupt):
                trained(out=run, checkpoint_seconds=0)
        assert (run / "stages" / "standard" / "last.ckpt").exists()
        assert (run / "stages" / "standard" / "record.json").exists() == (run / "last.ckpt").exists() == (saves == 14)
        trained(out=run, resume=True)
        assert weights(run) == weights(whole)
        assert weights(run / "stages" / "standard") == weights(whole / "stages" / "standard")

    def test_in_memory_nothing_is_written(self, whole, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        made = trained()
        assert list(tmp_path.iterdir()) == []
        expected = load_run(whole).model.state_dict()
        assert all(torch.equal(value, expected[name]) for name, value in made.model.state_dict().items())
        assert made.record.stages["standard"].run == ""

    def test_a_stage_takes_after_its_run(self):
        found = recipe(
            "help", "seed=7", "model=lenet5", "epochs=3", "eps=0.2", "precision=64-true", "selection.size=31"
        )
        (plan,) = planned(found, None)
        stage = plan.recipe
        assert (stage.seed, stage.model, stage.eps, stage.precision) == (7, "lenet5", 0.2, "64-true")
        assert stage.selection.size == 31
        assert stage.selection.keep == "last"
        assert stage.epochs == recipe("standard").epochs
        own = recipe("help", "stages.standard.model=small", "model=lenet5", "stages.standard.recipe=mixup")
        (plan,) = planned(own, None)
        assert (plan.recipe.recipe, plan.recipe.model) == ("mixup", "small")

    def test_a_stages_images_are_augmented_as_those_of_its_run(self):
        found = recipe("cafe/adv", "augmentation.flip=false", "augmentation.crop=3", family="cifar")
        assert [plan.recipe.augmentation for plan in planned(found, None)] == [found.augmentation] * 2
        own = recipe("cafe/adv", "stages.base.augmentation.flip=false", family="cifar")
        base, game = (plan.recipe.augmentation for plan in planned(own, None))
        assert game == own.augmentation == base.model_copy(update={"flip": True})
        assert not base.flip

    def test_without_validation_images_stages_keep_their_last_weights_too(self):
        last, best = "selection.keep=last", "stages.base.selection.size=31"
        found = recipe("cafe-authors/adv", "selection.size=0", last)
        assert [plan.recipe.selection for plan in planned(found, None)] == [found.selection] * 2
        own = planned(recipe("cafe-authors/adv", "selection.size=0", last, best), None)
        assert [(plan.recipe.selection.size, plan.recipe.selection.keep) for plan in own] == [(31, "best"), (0, "last")]
        usual = planned(recipe("cafe-authors/adv", last), None)
        assert [plan.recipe.selection.keep for plan in usual] == ["best", "last"]
        with pytest.raises(InputError, match=r"stages\.base: selection: .*for size 0 set selection\.keep=last"):
            planned(recipe("cafe-authors/adv", "selection.size=0", last, "stages.base.selection.keep=best"), None)


class TestGiven:
    def test_a_finished_run_in_place_of_the_stage(self, whole, tmp_path):
        standard = whole / "stages" / "standard"
        made = trained(without_stages(), out=tmp_path / "r", stages={"standard": standard})
        assert not (tmp_path / "r" / "stages").exists()
        assert (tmp_path / "r" / "model.safetensors").exists()
        expected = load_run(whole).model.state_dict()
        assert all(torch.equal(value, expected[name]) for name, value in made.model.state_dict().items())
        assert made.record.stages["standard"].run == str(standard)
        again = trained(without_stages(), out=tmp_path / "r", stages={"standard": standard}, resume=True)
        assert again.record == made.record
        named = trained(without_stages() | {"stages.standard": str(standard)})
        assert all(torch.equal(v, expected[name]) for name, v in named.model.state_dict().items())

    @pytest.mark.parametrize("finished", [True, False])
    def test_another_one_cannot_continue(self, whole, tmp_path, finished):
        standard, run = whole / "stages" / "standard", tmp_path / "r"
        trained(without_stages(), out=run, stages={"standard": standard})
        other = standard_run(tmp_path / "o", epochs=1).path
        if not finished:
            (run / "record.json").unlink()
        with pytest.raises(InputError, match=r"^resume: got") as error:
            trained(without_stages(), out=run, stages={"standard": other}, resume=True)
        assert ("the standard that the run was built on" in str(error.value)) == finished
        with pytest.raises(InputError, match=r"resume: got .stages\."):
            trained(out=run, resume=True)

    def test_what_does_not_fit_is_refused_before_anything_is_written(self, whole, tmp_path, monkeypatch):
        few = data_module(monkeypatch, "few", train=split(40, 3), test=split(40, 3))
        other = data_module(monkeypatch, "other", train=split(88, seed=5), test=split(20))
        runs = {name: standard_run(tmp_path / name, data, 1).path for name, data in (("few", few), ("other", other))}
        (tmp_path / "empty").mkdir()
        unfinished = shutil.copytree(whole / "stages" / "standard", tmp_path / "unfinished")
        (unfinished / "model.safetensors").unlink()
        for given, message in (
            (
                runs["few"],
                r"stages\.standard: got '.*with 3 classes.*; expected a run with the same classes and images",
            ),
            (
                runs["other"],
                r"stages\.standard: got '.*trained on other:make'; expected a run trained on the same images",
            ),
            (tmp_path / "nowhere", r"stages\.standard: got '.*nowhere'; expected the folder of a finished run"),
            (tmp_path / "empty", r"stages\.standard: got '.*empty'; expected the folder of a finished run"),
            (unfinished, r"stages\.standard: got '.*unfinished'; expected the folder of a finished run"),
        ):
            with pytest.raises(InputError, match=message):
                trained(without_stages(), out=tmp_path / "out", stages={"standard": given})
            assert not (tmp_path / "out").exists()

    def test_names_that_do_not_exist(self):
        for name, stages, message in (
            ("pgd-at", {"standard": "x"}, "stages: got 'standard'; expected no stage: pgd-at builds on none"),
            ("help", {"base": "x"}, "stages: got 'base'; expected one of standard"),
        ):
            with pytest.raises(InputError, match=message):
                train(name, stages=stages)
        for word, message in (
            ("stages.standard=3", r"stages\.standard: got 3; expected the folder of a finished run"),
            ("stages.standard.recipe=standart", r"stages\.standard: recipe: got 'standart'.*did you mean 'standard'"),
            ("stages.standard.epoch=3", r"stages\.standard: recipe key: got 'epoch'.*did you mean 'epochs'"),
            ("stages.standard.image_size=20", r"stages\.standard: image_size: got 20"),
        ):
            with pytest.raises(InputError, match=message):
                planned(recipe("help", word), None)

    def test_overwriting_does_not_remove_what_it_builds_on(self, run):
        before = contents(run)
        with pytest.raises(InputError, match=r"stages\.standard: got .* expected a run outside of"):
            train(
                "help", out=run, changes=without_stages(), stages={"standard": run / "stages/standard"}, overwrite=True
            )
        assert contents(run) == before


class TestChain:
    """Three in a row, where the second builds on the first as well: what a pipeline of any length comes down to."""

    CHANGES = SMALL | {"epochs": 1, "steps": 1, "objective": "third"}
    STAGES = {
        "stages.standard": {"epochs": 1, "batch_size": 16},
        "stages.help": {"epochs": 1, "steps": 1, "batch_size": 16},
    }

    @pytest.fixture(autouse=True)
    def third(self, monkeypatch):
        seen = []

        def build(model, recipe, stages):
            seen.append(stages)
            return AdversarialTraining(model, inner_attack(recipe))

        stages = {"standard": "standard", "help": "help"}
        monkeypatch.setitem(OBJECTIVES, "third", Entry("a test", ObjectiveSettings, build, stages=stages))
        return seen

    def run(self, out, stages=None, **changes):
        chosen = {**self.CHANGES, **(self.STAGES if stages is None else {}), **changes}
        return train("pgd-at", data="stage_data:make", out=out, changes=chosen, stages=stages, resume=out is not None)

    def test_the_second_builds_on_the_first_and_the_last_on_both(self, tmp_path, third):
        made = self.run(tmp_path / "r")
        assert made.record.stages.keys() == {"standard", "help"}
        middle = TrainingRecord.read(tmp_path / "r" / "stages" / "help" / "record.json")
        assert middle.stages["standard"] == made.record.stages["standard"]
        assert not (tmp_path / "r" / "stages" / "help" / "stages").exists()
        last = third[-1]
        for name, value in last["standard"].model.state_dict().items():
            assert torch.equal(value, last["help"].players["standard"].state_dict()[name])
        memory = self.run(None)
        for name, value in made.model.state_dict().items():
            assert torch.equal(value, memory.model.state_dict()[name])
        loaded = load_run(tmp_path / "r")
        assert restored(tmp_path / "r", loaded, loaded.recipe).players().keys() == {"model"}

    def test_given_ones_must_be_built_on_each_other(self, tmp_path):
        first, second = tmp_path / "r" / "stages" / "standard", tmp_path / "r" / "stages" / "help"
        made = self.run(tmp_path / "r")
        both = self.run(tmp_path / "both", {"standard": first, "help": second})
        for name, value in made.model.state_dict().items():
            assert torch.equal(value, both.model.state_dict()[name])
        other = standard_run(tmp_path / "other", epochs=3).path
        message = r"stages\.help: got .* expected a run built on the same standard as this one, .*other"
        with pytest.raises(InputError, match=message):
            self.run(tmp_path / "new", {"standard": other, "help": second})
        with pytest.raises(InputError, match="one still to be trained"):
            self.run(tmp_path / "new", {"help": second})
        assert not (tmp_path / "new").exists()

    def test_a_change_of_one_stage_is_refused_and_named(self, tmp_path):
        self.run(tmp_path / "r")
        with pytest.raises(InputError, match=r"resume: got .stages\.standard\.epochs=2.; .*stages\.standard\.epochs=1"):
            self.run(tmp_path / "r", **{"stages.standard": {"epochs": 2, "batch_size": 16}})
