"""What every suite, data source and analysis owes its user. The lists are the registries; who joins is tested."""

from __future__ import annotations

import json

import pytest
import torch
from PIL import Image

from deconfound.attacks.suites import DETERMINISTIC, Setting, names, suite
from deconfound.core.threat import ThreatModel
from deconfound.data import load
from deconfound.data.families import FAMILIES
from deconfound.data.overlays import OVERLAYS
from deconfound.errors import InputError
from deconfound.recipes.analysing import KINDS
from deconfound.recipes.listing import listing
from deconfound.recipes.resolve import family_radii
from deconfound.recipes.study_analyses import FITS
from deconfound.recipes.study_figures import _FIGURES
from deconfound.records import ANALYSES
from deconfound.reporting.analyses import SHOWN
from deconfound.reporting.study_analyses import CAPTIONS

THREAT = ThreatModel("linf", "8/255")
# What stands for each line of ``list data``: made in ``places``, or a name as it is.
EXAMPLES = {
    "digits": "digits",
    "shapes": "shapes:train=30,test=12",
    "shapes:rho=R": "shapes:rho=0.5,train=30,test=12",
    "DATA:train=N": "digits:train=20,test=10",
    **{f"DATA+{kind}:rho=R": f"digits+{kind}:rho=0.9" for kind in OVERLAYS},
    "FOLDER": "{folder}",
    "MODULE:CALLABLE": "contract_data:pictures",
}
NEEDS_A_NETWORK = {"OWNER/NAME"}


SUITES = (*names(), "pgd-40", "apgd-40")
# Every suite for the models that it accepts; ``rand`` is the one for random models alone.
ASKED = [
    *((name, False) for name in SUITES if name != "rand"),
    *((name, True) for name in SUITES if name not in DETERMINISTIC),
]


def made(name, stochastic=False, **changes):
    return suite(name, Setting(threat=THREAT, stochastic=stochastic, radii=family_radii("cifar"), **changes))


@pytest.mark.parametrize(("name", "stochastic"), ASKED)
@pytest.mark.parametrize("classes", [2, 10, 1000])
def test_a_suite_is_made_of_attacks_that_can_be_recorded(name, stochastic, classes):
    found = made(name, stochastic, classes=classes)
    assert found.name == name
    attacks = [
        *found.attacks,
        *(column.attack for column in found.columns),
        *(found.audit.attacks if found.audit else ()),
    ]
    assert attacks
    for attack in attacks:
        assert attack.name
        assert json.loads(json.dumps(attack.settings())) == attack.settings()
        assert attack.at(attack.threat) == attack
    assert all(attack.threat == THREAT for attack in found.attacks)
    assert len({(column.group, column.attack.name) for column in found.columns}) == len(found.columns)


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_a_suite_of_single_draws_is_refused_for_random_models(name):
    with pytest.raises(InputError, match="suite: got"):
        made(name, stochastic=True)


@pytest.fixture
def places(tmp_path, monkeypatch):
    for split, count in (("train", 3), ("test", 2)):
        for label in ("cat", "dog"):
            folder = tmp_path / "folder" / split / label
            folder.mkdir(parents=True)
            for number in range(count):
                Image.new("RGB", (16, 16), (40 * number, 10, 20)).save(folder / f"{number}.png")
    (tmp_path / "contract_data.py").write_text(
        "import torch\n"
        "def pictures():\n"
        "    return {s: (torch.rand(6, 3, 16, 16), torch.arange(6) % 2) for s in ('train', 'test')}\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    return {"folder": str(tmp_path / "folder")}


def test_every_form_of_a_data_name_has_an_example():
    assert {name for name, _ in listing("data")} == EXAMPLES.keys() | NEEDS_A_NETWORK


@pytest.mark.parametrize("form", EXAMPLES)
def test_a_data_source_keeps_its_word(form, places):
    data = load(EXAMPLES[form].format(**places))
    assert data.family in FAMILIES
    for split in (data.train, data.test):
        assert split is not None
        batch = next(split.batches([torch.arange(4)]))
        assert batch.images.shape == (4, *data.shape)
        assert batch.images.dtype == torch.float32
        assert 0 <= batch.images.min() <= batch.images.max() <= 1
        assert batch.labels.dtype == torch.int64
        assert 0 <= batch.labels.min() <= batch.labels.max() < len(data.class_names)
        assert batch.index.tolist() == [0, 1, 2, 3]
        again = next(split.batches([torch.tensor([3, 1])]))
        assert torch.equal(again.images, batch.images[[3, 1]])


def test_an_analysis_has_a_record_a_view_a_caption_figures_and_runs_it_fits():
    recorded = {kind.removesuffix("-analysis") for kind in ANALYSES}
    shown = {kind.removesuffix("-analysis") for kind in SHOWN}
    assert set(KINDS) == recorded == shown == set(CAPTIONS) == set(_FIGURES) == set(FITS)
    assert all(kind.about and kind.fits for kind in KINDS.values())
