"""What a Python user gives first: types that cannot be judged are refused with what to give instead."""

from __future__ import annotations

import logging

import pytest
import torch
from torch import nn

import deconfound
from deconfound.attacks import PGD
from deconfound.core.threat import ThreatModel
from deconfound.errors import InputError
from jobs import images
from toys import ToySource, tiny_net

THREAT = ThreatModel("linf", 0.05)
LABELS = torch.arange(8) % 4


def judged(model=None, x=None, y=LABELS, **settings):
    x = torch.rand(8, 1, 8, 8, generator=torch.Generator().manual_seed(0)) if x is None else x
    settings = {"suite": "pgd-1", "curve": False, "gallery": 0} | settings
    return deconfound.evaluate(model or tiny_net(), x, y, threat=THREAT, **settings)


class Boxed:
    model = nn.Identity()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"x": torch.rand(8, 1, 8, 8).numpy()}, r"images: got 'ndarray'; .* torch.from_numpy\(images\)"),
        ({"x": [torch.rand(1, 8, 8)]}, r"images: got 'list'; .* deconfound.data.load\(\"digits\"\).test"),
        ({"x": "digits", "y": None}, r"images: got 'str'; .* deconfound.data.load"),
        ({"x": deconfound.data.load("digits"), "y": None}, r"images: got 'DataSet'; .* split of the data set: .test"),
        ({"x": torch.zeros(8, 1, 8, 8, dtype=torch.uint8)}, r"images: got 'dtype uint8'; .* images.float\(\) / 255"),
        ({"y": LABELS.tolist()}, r"labels: got 'list'; .* torch.as_tensor\(labels\)"),
        ({"y": LABELS.numpy()}, r"labels: got 'ndarray'; .* torch.as_tensor\(labels\)"),
        ({"index": range(8)}, r"index: got range\(0, 8\); .* torch.arange\(100\)"),
        ({"index": 5}, r"index: got 5; .* torch.arange\(100\)"),
        ({"model": "runs/first"}, r"model: got 'str'; .* deconfound.load\(RUN\)"),
        ({"model": Boxed()}, r"model: got 'Boxed'; .* holds it as .model"),
        ({"model": lambda x: x}, r"model: got 'function'; expected a torch.nn.Module$"),
        ({"suite": ["pgd-1"]}, r"suite: got \['pgd-1'\]; expected a name; an attack of your own is MODULE:NAME"),
        ({"suite": PGD(THREAT, steps=1)}, r"suite: got PGD.*; expected a name"),
    ],
)
def test_other_types(given, message):
    with pytest.raises(InputError, match=message):
        judged(**given)


def test_sources_of_ones_own_are_taken():
    assert judged(x=ToySource(count=8), y=None, checks=False).n == 8


def test_keywords_are_those_of_evaluate():
    with pytest.raises(
        TypeError, match=r"evaluate\(\) got an unexpected keyword argument 'n' \(did you mean 'index'\?"
    ):
        judged(n=5)
    with pytest.raises(TypeError, match="did you mean 'batch_size'"):
        judged(batchsize=5)


class Detached(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = tiny_net()

    def forward(self, x):
        with torch.no_grad():
            return self.net(x)


def test_a_network_without_gradient_is_judged_and_called_unreliable():
    model = Detached()
    x = torch.rand(8, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    record = judged(model, x, model(x).argmax(dim=1), checks=True)
    assert record.clean_accuracy == 1
    assert any(reason.startswith("zero gradients: 100.0%") for reason in record.verdict.reasons)
    assert any("is there a no_grad or a detach?" in note for note in record.notes)


class Diverged(nn.Module):
    def forward(self, x):
        return torch.full((len(x), 4), torch.nan)


def test_a_network_that_diverged_is_no_classifier():
    with pytest.raises(InputError, match=r"model: got 'NaN for every class of the first image'; .* diverged"):
        judged(Diverged())


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"data": deconfound.data.load("digits")}, r"data: got 'DataSet'; expected a name \(deconfound list data\)"),
        ({"data": (images(4), LABELS[:4])}, r"data: got 'tuple'; .* module:callable for your own"),
        ({"model": nn.Identity()}, r"model: got 'Identity'; expected a name \(deconfound list models\)"),
        ({"changes": "epochs=1"}, r"changes: got 'epochs=1'; .* such as {'epochs': 5}"),
        ({"data": ""}, r"data: got ''; expected a data name"),
    ],
)
def test_training_takes_names(given, message):
    with pytest.raises(InputError, match=message):
        deconfound.train("standard", **given)


@pytest.mark.parametrize("job", [deconfound.load, lambda run: deconfound.export(run, "nowhere")])
def test_a_run_is_a_folder(job):
    with pytest.raises(InputError, match="run: got 'Identity'; expected the folder of a run"):
        job(nn.Identity())


def test_a_stage_of_another_kind_is_allowed_and_said(trained, tiny, caplog):
    changes = tiny | {"epochs": 1, "batch_size": 512}
    with caplog.at_level(logging.WARNING, logger="deconfound"):
        deconfound.train("help", stages={"standard": str(trained.path)}, changes=changes)
    (said,) = [record.getMessage() for record in caplog.records if "stages" in record.getMessage()]
    assert (
        said == f"stages.standard: {trained.path} was trained by pgd-at, with adversarial examples; usual is standard"
    )


def test_a_stage_of_the_usual_kind_needs_no_word(tiny, tmp_path, caplog):
    deconfound.train("standard", out=tmp_path / "plain", changes={"epochs": 1})
    changes = tiny | {"epochs": 1, "batch_size": 512}
    with caplog.at_level(logging.WARNING, logger="deconfound"):
        deconfound.train("help", stages={"standard": str(tmp_path / "plain")}, changes=changes)
    assert not [record for record in caplog.records if "stages" in record.getMessage()]
