"""CAFE as recipes: base network, game and inoculation in one run, each stage given or resumed, and the control."""

from __future__ import annotations

import logging
import shutil

import pytest
import torch

from deconfound.analysis.effects import around
from deconfound.analysis.means import mean_of
from deconfound.errors import InputError
from deconfound.objectives import Inoculated
from deconfound.recipes.analysing import Look, look_into
from deconfound.recipes.cautions import UNBOUND
from deconfound.recipes.loading import load_run
from deconfound.recipes.players import restored
from deconfound.recipes.training import train
from deconfound.records import EffectsRecord, TrainingRecord
from deconfound.store import CheckpointFile
from jobs import WEIGHTS, Told, contents, data_module, split
from resolved import built

EACH = {"epochs": 1, "steps": 2, "batch_size": 16}
SMALL = {"selection.size": 8, "selection.steps": 1, "model": "small", "objective.inversion_steps": 2, **EACH}
BASE = {f"stages.base.{key}": value for key, value in EACH.items()}
AMR = {f"stages.amr.{key}": value for key, value in EACH.items()}
CAFE = SMALL | BASE | AMR
FAIR = {key: value for key, value in SMALL.items() if not key.startswith("objective")}


@pytest.fixture(scope="module", autouse=True)
def _small_data():
    with pytest.MonkeyPatch.context() as patch:
        data_module(patch, "cafe_data", train=split(88), test=split(20, seed=1))
        data_module(patch, "cafe_other", train=split(88, seed=5), test=split(20))
        data_module(patch, "cafe_few", train=split(88, 3), test=split(20, 3))
        yield


def trained(name="cafe/trades", changes=CAFE, **settings):
    return train(name, data=settings.pop("data", "cafe_data:make"), changes=changes, **settings)


def weights(run):
    return {name: (run / name).read_bytes() for name in (*WEIGHTS, "metrics.jsonl")}


def state(run):
    return load_run(run).model.state_dict()


def equal(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A finished run of cafe/trades; not to be written to."""
    return trained(out=tmp_path_factory.mktemp("whole") / "run").path


@pytest.fixture(scope="module")
def base(whole):
    return whole / "stages" / "base"


class TestPipeline:
    def test_the_stages_are_runs_of_their_own_and_named_in_the_record(self, whole, base):
        record = TrainingRecord.read(whole / "record.json")
        assert list(record.stages) == ["base", "amr"]
        assert [use.recipe for use in record.stages.values()] == ["cafe/base", "amr-gmm"]
        for name, use in record.stages.items():
            assert use.model_digest == load_run(whole / "stages" / name).digest
        game = TrainingRecord.read(whole / "stages" / "amr" / "record.json")
        assert game.stages["base"] == record.stages["base"]
        assert {"h_moment", "h_distance", "h_causal_cross_entropy", "g_loss"} <= game.history[0].keys()
        assert {"causal_kl", "cross_entropy", "kl"} <= record.history[0].keys()

    def test_the_game_leaves_the_base_network_as_it_is_and_the_defence_begins_there(self, whole, base):
        assert equal(state(base), state(whole / "stages" / "amr"))
        loaded = load_run(whole)
        objective = restored(whole, loaded, loaded.recipe)
        assert isinstance(objective, Inoculated)
        assert equal(dict(objective.causal.network.state_dict()), dict(state(base)))
        h = objective.causal.hypothesis.state_dict()
        game = load_run(whole / "stages" / "amr")
        players = restored(whole / "stages" / "amr", game, game.recipe).players()
        assert players.keys() == {"model", "h", "g"}
        assert equal(dict(h), dict(players["h"].state_dict()))
        assert equal(dict(loaded.model.state_dict()), dict(state(whole)))  # restoring moves no weight
        moved = [not torch.equal(value, state(base)[name]) for name, value in state(whole).items()]
        assert all(moved)
        barely = trained(changes=CAFE | {"lr": 1e-9}, stages={"base": base, "amr": whole / "stages" / "amr"})
        for name, value in barely.model.state_dict().items():
            torch.testing.assert_close(value, state(base)[name], rtol=0, atol=1e-6)

    def test_weight_0_is_the_control_bit_for_bit(self, whole, base):
        given = {"base": base, "amr": whole / "stages" / "amr"}
        changes = SMALL | {"epochs": 2, "objective.weight": 0}
        fair = trained("fair/trades", FAIR | {"epochs": 2}, stages={"base": base})
        cafe = trained(changes=changes, stages=given)
        assert equal(dict(fair.model.state_dict()), dict(cafe.model.state_dict()))
        other = trained(changes=changes | {"objective.weight": 5}, stages=given)
        assert not equal(dict(fair.model.state_dict()), dict(other.model.state_dict()))

    def test_given_runs_in_place_of_stages_and_memory_in_place_of_a_folder(self, whole, base, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        both = trained(out=tmp_path / "r", changes=SMALL, stages={"base": base, "amr": whole / "stages" / "amr"})
        assert equal(state(tmp_path / "r"), state(whole))
        assert not (tmp_path / "r" / "stages").exists()
        assert [use.run for use in both.record.stages.values()] == [str(base), str(whole / "stages" / "amr")]
        half = trained(changes=SMALL | AMR, stages={"base": base})
        assert equal(dict(half.model.state_dict()), dict(state(whole)))
        assert [path.name for path in tmp_path.iterdir()] == ["r"]

    def test_a_finished_stage_is_reused_and_gives_the_same_bytes(self, whole, tmp_path):
        run, told = shutil.copytree(whole, tmp_path / "run"), Told()
        for name in ("record.json", "last.ckpt", "previous.ckpt", *WEIGHTS):
            (run / name).unlink(missing_ok=True)
        stages = contents(run / "stages")
        trained(out=run, resume=True, monitor=told)
        assert [f"stage {name}: finished before; nothing is left to do" in told.messages for name in ("base", "amr")]
        assert contents(run / "stages") == stages
        assert weights(run) == weights(whole)

    def test_a_kill_in_the_game_is_resumed_bit_for_bit(self, whole, tmp_path, monkeypatch):
        run, save, count = tmp_path / "run", CheckpointFile.save, []

        def killing(self, state):
            save(self, state)
            count.append(self.last.parent.name)
            if count.count("amr") == 3:
                raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(CheckpointFile, "save", killing)
            with pytest.raises(KeyboardInterrupt):
                trained(out=run, checkpoint_seconds=0)
        assert (run / "stages" / "base" / "record.json").exists()
        assert not (run / "stages" / "amr" / "record.json").exists()
        trained(out=run, resume=True)
        assert weights(run) == weights(whole)
        assert weights(run / "stages" / "amr") == weights(whole / "stages" / "amr")

    def test_every_part_of_the_hardest_hosts_runs(self, whole, base):
        given = {"base": base, "amr": whole / "stages" / "amr"}
        more = {f"stages.standard.{key}": EACH[key] for key in ("epochs", "batch_size")}
        helped = trained("cafe/help", SMALL | more, stages=given)
        assert list(helped.record.stages) == ["base", "amr", "standard"]
        assert helped.players.keys() == {"model", "standard", "causal"}
        assert trained("cafe-authors/mart", SMALL, stages=given).players.keys() == {"model", "causal"}
        styled = trained("cafe/causaladv-m", SMALL, stages=given)
        assert styled.players.keys() == {"model", "style", "causal"}
        seen = trained("cafe/ciiv+pgd-at", CAFE | {"sampler.loops": 2})
        assert "validation_robust" not in seen.record.history[0]
        assert seen.record.stages["base"].recipe == "ciiv+pgd-at"
        assert seen.record.history[0]["causal_kl"] > 0


class TestBadInput:
    @pytest.mark.parametrize(
        ("name", "words", "message"),
        [
            ("cafe/adv", "stages.amr.objective.layer=conv9", r"layer: got 'conv9'; expected one of normalise, conv1"),
            (
                "amr-gmm",
                "objective.layer=linear1 objective.form=convolutional",
                r"features: got \(100,\); expected maps",
            ),
            (
                "cafe/adv",
                "objective.host=standard",
                r"objective\.host: got 'standard'; expected an objective with an adv",
            ),
            ("cafe/adv", "objective.host=cafe", r"objective\.host: got 'cafe'"),
            ("fair/adv", "objective.host=amr-gmm", r"objective\.host: got 'amr-gmm'"),
            ("help", "objective.host=ciiv-at", r"objective\.host: got 'ciiv-at'"),
            ("cafe/adv", "objective.host=tradse", "got 'tradse'.*did you mean 'trades'"),
            ("cafe/trades", "objective.host.betta=1", r"did you mean 'objective\.host\.beta'"),
            ("cafe/adv", "objective.gamma=x", r"objective\.gamma: got 'x'; expected a finite number"),
            ("cafe/adv", "objective.weight=-1", r"objective\.weight: got -1"),
            ("amr-gmm", "objective.penalty=-1", r"objective\.penalty: got -1; expected at least 0"),
            ("amr-gmm", "attack_mode=train", "^attack_mode: got 'train'; expected eval, because the network is"),
            ("cafe/adv", "stages.amr.attack_mode=train", r"attack_mode: got 'train'; expected eval"),
            ("amr-gmm", "eps_warmup=0.4", "^eps_warmup: got 0.4; expected 0, because the network is trained already"),
            ("cafe/adv", "stages.amr.eps_warmup=0.4", "eps_warmup: got 0.4; expected 0"),
            ("amr-gmm", "awp.gamma=0.1", "awp: got .* expected none with amr-gmm"),
            ("fair/adv", "stages.amr=x", "stages: got 'amr'; expected one of base"),
        ],
    )
    def test_settings(self, name, words, message):
        with pytest.raises(InputError, match=message) as caught:
            built(name, *words.split())
        assert "\n" not in str(caught.value)

    def test_a_layer_that_does_not_exist_is_refused_before_anything_is_written(self, tmp_path):
        with pytest.raises(InputError, match="layer: got 'conv9'"):
            trained(changes=CAFE | {"stages.amr.objective.layer": "conv9"}, out=tmp_path / "r")
        assert not (tmp_path / "r").exists()

    def test_runs_that_do_not_fit(self, whole, base, tmp_path):
        amr = whole / "stages" / "amr"
        own = {key: value for key, value in SMALL.items() if not key.startswith("objective")}
        net = trained("cafe/base", own | {"model": "lenet5"}, out=tmp_path / "net").path
        levels = trained(
            "cafe/base", own | {"normalisation.mean": [0.5], "normalisation.std": [0.5]}, out=tmp_path / "l"
        )
        other = trained("cafe/base", own, data="cafe_other:make", out=tmp_path / "other").path
        few = trained("cafe/base", own, data="cafe_few:make", out=tmp_path / "few").path
        plain = trained("cafe/base", own | {"model": "vit"}, out=tmp_path / "plain").path
        heads = {"model": "vit", "model_options.heads": 1}
        with pytest.raises(InputError, match=r"stages\.base: got '.*plain with model_options none'; .* \{'heads': 1\}"):
            trained(changes=SMALL | heads, stages={"base": plain}, out=tmp_path / "r")
        second = trained("cafe/base", own | {"seed": 3}, out=tmp_path / "second").path
        for stages, message in (
            ({"base": net}, r"stages\.base: got '.*net with model lenet5'; expected a run with the same model, small"),
            ({"base": levels.path}, r"stages\.base: got '.*with normalisation .*the same normalisation, none"),
            ({"base": other}, r"stages\.base: got '.*trained on cafe_other:make'; expected a run trained on the same"),
            ({"base": few}, r"stages\.base: got '.*with 3 classes"),
            (
                {"base": second, "amr": amr},
                r"stages\.amr: got .* expected a run built on the same base as this one, .*second",
            ),
            ({"amr": amr}, r"stages\.amr: got .*one still to be trained \(give both with --base\)"),
            ({"base": base, "amr": base}, r"stages\.amr: got .* expected a run of amr-gmm"),
        ):
            with pytest.raises(InputError, match=message) as caught:
                trained(changes=SMALL, stages=stages, out=tmp_path / "r")
            assert "\n" not in str(caught.value)
            assert not (tmp_path / "r").exists()

    def test_a_radius_above_eps_is_allowed_and_warned_of_once(self, whole, base, caplog):
        given = {"base": base, "amr": whole / "stages" / "amr"}
        with caplog.at_level(logging.WARNING, logger="deconfound"):
            trained(changes=SMALL | {"objective.gamma": 0.4}, stages=given)
        assert [entry.message for entry in caplog.records] == [
            "causal inversion looks further than the attack: gamma 0.4 is above eps 0.1"
        ]

    def test_without_a_penalty_the_record_and_the_log_say_that_g_is_unbound(self, base, caplog):
        changes = FAIR | {"objective.penalty": 0}
        with caplog.at_level(logging.WARNING, logger="deconfound"):
            record = trained("amr-gmm", changes, stages={"base": base}).record
        assert record.warnings == tuple(entry.message for entry in caplog.records) == (UNBOUND,)
        names = {"distance", "causal_cross_entropy", "counterfactual_cross_entropy", "penalty", "moment"}
        for row in record.history:
            assert {f"g_{name}" for name in names} <= row.keys()
            assert row["g_loss"] == pytest.approx(-row["g_moment"])
        still = trained("amr-gmm", changes | {"objective.test": "random"}, stages={"base": base}).record
        assert still.warnings == ()  # this g does not move
        assert "h_distance" in still.history[0]


class TestEffects:
    def look(self, run, **changes):
        return Look(**{"run": str(run), "kind": "effects", "data": "cafe_data:make", "batch_size": 8} | changes)

    def test_record_and_files(self, whole, tmp_path):
        record, files = look_into(self.look(whole), out=tmp_path / "a")
        assert [path.name for path in files] == ["effects.json", "effects.csv", "effects.svg"]
        assert EffectsRecord.read(files[0]) == record
        assert [one.network for one in record.distances] == ["base", "defence"]
        assert record.inversion["steps"] == 2
        assert [kind.name for kind in record.kinds][::3] == ["adversarial", "adversarial_causal"]
        assert (record.n, record.offsets) == (20, (-1, 0, 1))
        game, _ = look_into(self.look(whole / "stages" / "amr"), out=tmp_path / "b")
        assert [one.network for one in game.distances] == ["base"]
        assert game.kinds == record.kinds  # both are of the frozen network

    def test_attacks_by_name_each_with_its_row(self, whole, tmp_path):
        usual, _ = look_into(self.look(whole), out=tmp_path / "usual")
        assert [one.attack.name for one in usual.attacks] == ["pgd-20", "fgsm", "cw-20", "apgd-20"]
        keeps = [one.attack.settings["keep"] for one in usual.attacks]
        assert keeps == ["last", "last", "last", "best"]  # no image stays clean because it did not fall
        assert usual.attacks[2].attack.settings["loss"] == "margin"
        again, files = look_into(self.look(whole, attack="FGSM, apgd-20"))
        assert files[0].parent.name.startswith("analyze-effects-cafe_data")
        assert "attackFGSM" in files[0].parent.name
        assert again.kinds == usual.others[0].kinds
        assert again.others == usual.others[-1:]
        assert all(one.distance.value > 0 for one in usual.attacks)
        with pytest.raises(InputError, match=r"^attack: got 'pdg'; expected one of .*did you mean 'pgd'"):
            self.look(whole, attack="fgsm,pdg")
        with pytest.raises(InputError, match=r"^attack: got 'pgd,pgd-20'; expected each attack once"):
            self.look(whole, attack="pgd,pgd-20")
        with pytest.raises(InputError, match=r"^attack: got 'fgsm'; expected none with kind style"):
            self.look(whole, kind="style", attack="fgsm")

    def test_the_games_own_moment_is_reported(self, base, tmp_path):
        run = trained(
            "amr-gmm", FAIR | {"objective.moment": "class_residual"}, stages={"base": base}, out=tmp_path / "r"
        )
        record, _ = look_into(self.look(run.path))
        assert (record.game["moment"], record.moment_name, record.penalty_name) == ("class_residual",) * 2 + ("size",)
        assert abs(record.moment) <= 1  # of probabilities

    @pytest.mark.parametrize("norm", ["l2", "l1"])
    def test_the_inversions_radius_is_in_linf_whatever_the_runs_norm(self, norm, tmp_path):
        changes = CAFE | {"norm": norm, "objective.gamma": 0.02}
        run = trained("cafe/adv", changes, out=tmp_path / "r").path
        for place, gamma in ((run, 0.02), (run / "stages" / "amr", 0.05)):
            record, _ = look_into(self.look(place, n=4))
            assert (record.threat.norm, record.inversion["norm"]) == (norm, "linf")
            assert record.inversion["eps"] == pytest.approx(gamma)

    def test_without_its_stage_it_is_looked_for_where_the_record_says(self, whole, tmp_path):
        amr = shutil.copytree(whole / "stages" / "amr", tmp_path / "amr")
        stages = {"base": whole / "stages" / "base", "amr": amr}
        run = trained(changes=SMALL, stages=stages, out=tmp_path / "r").path
        record, _ = look_into(self.look(run, n=4))
        assert record.n == 4
        shutil.rmtree(amr)
        with pytest.raises(
            InputError, match=r"run: got .*expected a run whose stage amr, which alone has g, still lies"
        ):
            look_into(self.look(run, n=4), overwrite=True)

    def test_other_runs_do_not_fit(self, base):
        with pytest.raises(
            InputError, match=r"^kind: got 'effects'; expected a kind that fits the run: .*amr-gmm, cafe/"
        ):
            look_into(self.look(base))

    def test_the_figures_by_hand(self):
        logits = torch.tensor([[0.0, 1.0, 2.0], [3.0, 0.0, 0.0]])
        p = logits.double().softmax(1)
        expected = [(p[0, 1] + p[1, 2]) / 2, (p[0, 2] + p[1, 0]) / 2, (p[0, 0] + p[1, 1]) / 2]
        assert around(logits, torch.tensor([2, 0]), (-1, 0, 1)) == pytest.approx([float(one) for one in expected])
        found = mean_of(torch.tensor([1.0, 2.0, 3.0]))
        assert found.interval == pytest.approx((2 - 1.96 / 3**0.5, 2 + 1.96 / 3**0.5))
