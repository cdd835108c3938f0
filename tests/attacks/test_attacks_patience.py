"""An accelerator's host looks at what has fallen only every few calls; that changes no verdict and loses nothing."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from deconfound.attacks import APGD, DDN, FAB, PGD, Noise, Square, harness
from deconfound.core.streams import Streams
from deconfound.core.threat import ThreatModel

THREAT = ThreatModel("linf", 0.04)
ATTACKS = {
    "pgd": PGD(THREAT, steps=11, restarts=3),
    "apgd": APGD(THREAT, steps=11, restarts=2),
    "apgd-t": APGD(THREAT, steps=11, targets=3),
    "fab-t": FAB(THREAT, steps=7, targets=2),
    "square": Square(THREAT, queries=45),
    "noise": Noise(THREAT, tries=5),
    "ddn": DDN(ThreatModel("l2", 0.4), steps=9),
}


@pytest.fixture
def case():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 6, 3), nn.Tanh(), nn.Flatten(), nn.Linear(216, 5)).double()
    images = torch.rand(40, 1, 8, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    with torch.no_grad():
        labels = model(images).argmax(1)
    labels[:5] = (labels[:5] + 1) % 5
    return model, images, labels


def fallen(model, images, labels):
    with torch.no_grad():
        return model(images).argmax(1) != labels


@pytest.mark.parametrize("judged", ["by the surrogate", "by another"])
@pytest.mark.parametrize("name", list(ATTACKS))
def test_patience_changes_no_verdict(case, name, judged, monkeypatch):
    model, images, labels = case
    torch.manual_seed(2)
    other = nn.Sequential(nn.Flatten(), nn.Linear(64, 5)).double()
    judge = None if judged == "by the surrogate" else lambda x: model(x) + 0.02 * other(x)
    decide = model if judge is None else judge
    streams = Streams(3, range(40))
    found = []
    for patience in (1, 4):
        monkeypatch.setattr(harness, "CPU_PATIENCE", patience)
        found.append(ATTACKS[name](model, images, labels, streams, judge=judge))
        changed = (found[-1] != images).flatten(1).any(1)
        clean = fallen(decide, images, labels)
        assert torch.equal(fallen(decide, found[-1], labels), changed | clean)
        assert not changed[clean].any()
        assert ATTACKS[name].threat.contains(found[-1], images).all()
    exact, later = (fallen(decide, images_found, labels) for images_found in found)
    if judge is None:
        assert torch.equal(exact, later)
    else:  # of several candidates of one stretch the judge sees the first
        assert int((exact != later).sum()) <= 2
    assert 0 < int(exact.sum()) < 40
