"""Kept epochs: what lies there, that it changes nothing, how it is resumed; what the analysis makes of them."""

from __future__ import annotations

import csv
import math
import os
import shutil
import signal

import pytest

from deconfound.errors import InputError
from deconfound.functional.statistics import spearman
from deconfound.recipes.analysing import Look, look_into
from deconfound.recipes.loading import load_run
from deconfound.recipes.remembering import correlations
from deconfound.recipes.resolve import read_spec, resolve
from deconfound.recipes.stopping import Stopped
from deconfound.recipes.training import train
from deconfound.records import Accuracy, CheckpointsRecord, Correlations, KeptEpoch, StyleRecord
from deconfound.store import RunFolder
from jobs import Told, contents, data_module, split

CHANGES = {"epochs": 5, "steps": 2, "batch_size": 16, "selection.size": 8, "selection.steps": 1, "keep_every": 2,
           "selection.keep": "last", "model": "small"}  # fmt: skip
DATA = "kept_data:make"


@pytest.fixture(scope="module", autouse=True)
def _small_data():
    with pytest.MonkeyPatch.context() as patch:
        data_module(patch, "kept_data", train=split(88), test=split(20, seed=1))
        yield


def trained(out=None, **changes):
    more = {key: changes.pop(key) for key in ("resume", "overwrite", "monitor") if key in changes}
    return train("causaladv-m", data=DATA, out=out, changes=CHANGES | changes, **more)


def look(run, **changes):
    return Look(**{"run": str(run), "kind": "checkpoints", "batch_size": 20} | changes)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A finished run with kept epochs; not to be written to."""
    return trained(tmp_path_factory.mktemp("kept") / "run").path


class TestKeeping:
    def test_every_so_many_epochs_and_the_last_are_runs_of_their_own(self, whole):
        kept = RunFolder(whole).kept()
        assert list(kept) == [2, 4, 5]
        assert {path.name for path in kept[2].path.iterdir()} == {"model.safetensors", "players.safetensors"}
        digests = [load_run(folder.path).digest for folder in kept.values()]
        assert len(set(digests)) == 3
        assert digests[-1] == load_run(whole).digest
        record, _ = look_into(look(kept[4].path, kind="style", data=DATA), out=whole.parent / "style")
        assert record.model_digest == digests[1]

    def test_nothing_else_changes(self, whole):
        plain = trained(keep_every=None)
        assert RunFolder(whole).record.is_file()
        kept = load_run(whole)
        assert all(tensor.equal(kept.model.state_dict()[name]) for name, tensor in plain.model.state_dict().items())
        without = resolve(read_spec("pgd-at"), data=DATA, family="digits")
        assert without.keep_every is None
        assert "keep_every" not in without.identity()  # so that older runs are what they were
        other = resolve(read_spec("pgd-at"), data=DATA, family="digits", changes={"keep_every": 2})
        assert other.digest() != without.digest()

    def test_an_interrupted_training_ends_with_the_same_bytes(self, whole, tmp_path):
        class Impatient(Told):
            def update(self, done, values):
                super().update(done, values)
                if done >= 17:  # in the fourth of five epochs of five steps
                    os.kill(os.getpid(), signal.SIGTERM)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("deconfound.training.loop.TELL_EVERY", 0)
            with pytest.raises(Stopped):
                trained(tmp_path / "run", monitor=Impatient())
        assert list(RunFolder(tmp_path / "run").kept()) == [2]
        trained(tmp_path / "run", resume=True)
        assert contents(tmp_path / "run" / "epochs") == contents(whole / "epochs")

    def test_epochs_of_a_training_that_begins_again_go(self, tmp_path):
        run = tmp_path / "run"
        trained(run, epochs=1)
        for name in ("last.ckpt", "previous.ckpt", "record.json", "model.safetensors"):
            (run / name).unlink(missing_ok=True)
        shutil.copytree(run / "epochs" / "0001", run / "epochs" / "0007")
        trained(run, epochs=1, resume=True)
        assert list(RunFolder(run).kept()) == [1]
        trained(run, epochs=1, overwrite=True, keep_every=None)
        assert not (run / "epochs").exists()

    def test_bad_settings(self, tmp_path):
        with pytest.raises(InputError, match="keep_every: got 0; expected at least 1"):
            trained(tmp_path / "run", keep_every=0)
        assert not (tmp_path / "run").exists()


class TestAnalysis:
    def test_each_epoch_is_what_the_style_analysis_finds_in_it(self, whole, tmp_path):
        record, files = look_into(look(whole), out=tmp_path / "a")
        assert [path.name for path in files] == ["checkpoints.json", "checkpoints.csv", "checkpoints.svg"]
        assert CheckpointsRecord.read(files[0]).points == record.points
        assert [point.epoch for point in record.points] == [2, 4, 5]
        assert (record.n, record.attack.name, record.attack.settings["steps"]) == (20, "pgd-20", 20)
        for point, folder in zip(record.points, RunFolder(whole).kept().values(), strict=True):
            style, _ = look_into(look(folder.path, kind="style", data=DATA), out=tmp_path / str(point.epoch))
            assert isinstance(style, StyleRecord)
            assert point.digest == style.model_digest
            assert (point.natural, point.adversarial) == (style.content.natural, style.content.adversarial)
            assert (point.leakage, point.held_out) == (style.trained.leakage, style.trained.held_out)
            assert (point.chance, point.recovered) == (style.trained.chance, style.trained.recovered)
        robust = [point.adversarial.share for point in record.points]
        found = {one.measure: (one.rho, one.p_value) for one in record.correlations}
        shares = {"canonical mean square", "content recovered"}
        assert (
            set(found) == {"largest correlation", "mean correlation"} | shares
        )  # on the exact basis a cosine is rounding
        assert all(math.isnan(one) for one in found["content recovered"])  # none in any epoch, but for rounding
        assert all(point.recovered == pytest.approx(0, abs=1e-3) for point in record.points)
        means = [p.held_out.mean if p.held_out.mean > p.chance.mean else -math.inf for p in record.points]
        assert found["mean correlation"] == pytest.approx(spearman(means, robust), nan_ok=True)
        rows = list(csv.DictReader((tmp_path / "a" / "checkpoints.csv").read_text().splitlines()))
        assert [float(row["adversarial"]) for row in rows] == robust

    def test_epochs_within_chance_tie(self):
        def point(largest, mean, robust, chance):
            found = Correlations(largest=largest, mean=mean, canonical_largest=1.0, canonical_mean_square=1.0)
            shares = {key: Accuracy(share=robust, interval=(0, 1)) for key in ("natural", "adversarial")}
            return KeptEpoch(epoch=1, digest="", leakage=0.0, held_out=found, chance=chance, recovered=1e-7, **shares)

        chance = Correlations(largest=0.3, mean=0.1, canonical_largest=1.0, canonical_mean_square=1.0)
        sizes = [(0.20, 0.05), (0.21, 0.06), (0.22, 0.07), (0.5, 0.08), (0.4, 0.09)]
        points = [point(*size, place / 5, chance) for place, size in enumerate(sizes)]
        found = {one.measure: one for one in correlations(points, "exact")}
        some, none = found["largest correlation"], found["mean correlation"]
        assert (some.rho, some.p_value) == spearman([0, 0, 0, 2, 1], range(5))
        assert some.within_chance == 3
        for one in (none, found["canonical mean square"]):
            assert one.within_chance == 5
            assert math.isnan(one.rho)
        assert math.isnan(found["content recovered"].rho)
        unknown = {
            one.measure: one for one in correlations([p.model_copy(update={"chance": None}) for p in points], "exact")
        }
        assert (unknown["mean correlation"].rho, unknown["mean correlation"].within_chance) == (pytest.approx(1), 0)

    def test_runs_without_epochs_are_refused(self, whole, tmp_path):
        run = shutil.copytree(whole, tmp_path / "run")
        shutil.rmtree(run / "epochs" / "0004")
        rule = r"a run that kept 3 epochs or more \(train with --set keep_every=1\), not 2"
        with pytest.raises(InputError, match=rule) as caught:
            look_into(look(run))
        assert "\n" not in str(caught.value)
        assert not list(run.glob("analyze-*"))
        other = train("standard", data=DATA, out=tmp_path / "s", changes=CHANGES | {"epochs": 3, "keep_every": 1}).path
        with pytest.raises(InputError, match=r"kind: got 'checkpoints'; .* this one needs a style branch"):
            look_into(look(other))
