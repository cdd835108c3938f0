"""``deconfound analyze RUN pictures``."""

from __future__ import annotations

import shutil

import pytest
import torch

from deconfound.analysis.pictures import TARGETS
from deconfound.errors import InputError
from deconfound.recipes import picturing
from deconfound.recipes.analysing import Look, look_into
from deconfound.recipes.cutting import cut_run
from deconfound.recipes.effecting import game_of
from deconfound.recipes.loading import load_run
from deconfound.recipes.training import train
from deconfound.records import PicturesRecord, TrainingRecord


def look(run, **changes):
    return Look(**{"run": str(run), "kind": "pictures", "n": 60, "steps": 20} | changes)


def test_record_and_files(trained, tmp_path):
    record, files = look_into(look(trained.path), out=tmp_path)
    assert [path.name for path in files] == ["pictures.json", "pictures.csv", "pictures.png"]
    assert PicturesRecord.read(files[0]) == record
    assert (record.n, record.optimisation["steps"], record.attack.name) == (6, 20, "pgd-20")
    assert len({image.label for image in record.images}) == 6
    assert sum(path.stat().st_size for path in files) < 200_000


def test_methods_may_add_kinds_of_features(trained, tmp_path, monkeypatch):
    def further(look, loaded, recipe):
        targets = dict(TARGETS) | {"middle": lambda natural, adversarial: (natural + adversarial) / 2}
        model = cut_run(look.run, loaded, None)
        return picturing.Pictured(model=model, targets=targets, layer="here", notes=("mine",))

    monkeypatch.setattr(picturing, "FURTHER", (lambda *arguments: None, further))
    record, _ = look_into(look(trained.path, n=5), out=tmp_path)
    assert [picture.kind for picture in record.images[0].features] == ["natural", "adversarial", "middle"]
    assert (record.layer, record.notes) == ("here", ("mine",))


@pytest.fixture(scope="module")
def cafe(trained, tmp_path_factory):
    """One epoch of everything; not to be written to."""
    short = {"epochs": 1, "steps": 1, "selection.steps": 1, "objective.inversion_steps": 1}
    changes = short | {"stages.amr.epochs": 1, "stages.amr.steps": 1}
    out = tmp_path_factory.mktemp("runs") / "cafe"
    return train("cafe/adv", out=out, changes=changes, stages={"base": trained.path}).path


class TestCausalKinds:
    """F_nat, F_adv, AC and CF of a run of CAFE, of AMR-GMM, and of no other run."""

    KINDS = ("natural", "adversarial", "adversarial_causal", "counterfactual")

    def test_the_features_are_those_of_the_game(self, cafe):
        loaded = load_run(cafe)
        found = picturing.causal_features(look(cafe), loaded, loaded.recipe)
        game, _ = game_of(str(cafe), loaded, loaded.recipe)
        images = torch.rand(3, *loaded.shape)
        moved = (images + 0.1).clamp(max=1)
        with torch.no_grad():
            natural, adversarial = (found.model.features(x) for x in (images, moved))
            assert torch.allclose(found.model.head(natural), game.network(images), atol=1e-5)
            f, z = game.causal.features(images), game.causal.features(moved) - game.causal.features(images)
            assert f.ndim == 4
            expected = (f, f + z, f + game.h(z), f + game.g(z))
            for (kind, target), wanted in zip(found.targets.items(), expected, strict=True):
                assert torch.allclose(target(natural, adversarial), wanted.flatten(1), atol=1e-5), kind
            causal = found.model.head(found.targets["adversarial_causal"](natural, adversarial))
            assert torch.allclose(causal, game.causal.causal(f, f + z), atol=1e-5)

    def test_of_cafe_and_of_its_game(self, cafe, tmp_path):
        record, _ = look_into(look(cafe, n=20, steps=5), out=tmp_path / "a")
        assert tuple(picture.kind for picture in record.images[0].features) == self.KINDS
        assert record.layer == "last feature map"
        assert [note for note in record.notes if "h and g are at home" in note]
        game, _ = look_into(look(cafe / "stages" / "amr", n=20, steps=5), out=tmp_path / "b")
        assert game.images == record.images  # both are of the frozen network
        assert not game.notes

    def test_a_layer_is_of_the_runs_own_network(self, cafe, tmp_path):
        record, _ = look_into(look(cafe, n=5, steps=2, layer="relu2"), out=tmp_path)
        assert tuple(picture.kind for picture in record.images[0].features) == self.KINDS[:2]
        assert (record.layer, record.notes) == ("relu2", ())

    def test_without_its_game(self, cafe, tmp_path):
        copy = shutil.copytree(cafe, tmp_path / "cafe")
        shutil.rmtree(copy / "stages")
        record = TrainingRecord.read(copy / "record.json")
        gone = {name: use.model_copy(update={"run": str(tmp_path / name)}) for name, use in record.stages.items()}
        (copy / "record.json").write_text(record.model_copy(update={"stages": gone}).to_json())
        with pytest.raises(InputError, match=r"expected a run whose stage amr, which alone has g, still lies at"):
            look_into(look(copy))


def test_settings(trained, tmp_path):
    with pytest.raises(InputError, match=r"^steps: got 0"):
        look(trained.path, steps=0)
    with pytest.raises(InputError, match=r"^layer: got 'nowhere'; expected one of"):
        look_into(look(trained.path, layer="nowhere"), out=tmp_path)
    with pytest.raises(InputError, match=r"^steps: got 3; expected none with kind style; it belongs to pictures"):
        look(trained.path, kind="style", steps=3)
