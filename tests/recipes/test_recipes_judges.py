"""Who judges random networks, and what tells the networks of an evaluation from others."""

from __future__ import annotations

import pytest
import torch

import deconfound
from deconfound.core.threat import ThreatModel
from deconfound.models import Smoothed
from deconfound.recipes.judges import tagged, usual_judge
from deconfound.recipes.loading import digest_of, load_foreign
from judged import Noisy
from toys import ToySource, tiny_net

PLAIN = {"suite": "pgd-1", "checks": False, "curve": False, "gallery": 0}


def test_smoothed_networks_are_judged_by_a_hundred_draws_that_may_abstain():
    assert usual_judge(Noisy(tiny_net())).settings() == {"kind": "majority", "draws": 9, "abstain": None}
    settings = {"kind": "majority", "draws": 100, "abstain": 0.001}
    assert usual_judge(Smoothed(tiny_net(), 0.5)).settings() == settings
    source = ToySource(count=6)
    record = deconfound.evaluate(Smoothed(tiny_net(), 0.5), source, threat=ThreatModel("linf", 0.05), **PLAIN)
    assert record.spread.judge == settings
    assert record.clean_accuracy == 0  # untrained, under noise as large as the images: no class is far ahead


@pytest.fixture
def weights(tmp_path):
    torch.manual_seed(0)
    net = deconfound.models.build("small", classes=4, channels=1, size=(8, 8))
    torch.save(net.state_dict(), tmp_path / "net.pt")
    return tmp_path / "net.pt"


def test_a_normalisation_is_part_of_what_a_network_is(weights):
    found = [
        load_foreign("small", weights, 4, (1, 8, 8), options).digest
        for options in ({}, {"mean": (0.5,), "std": (0.25,)}, {"mean": (0.0,), "std": (0.01,)})
    ]
    assert len(set(found)) == 3
    assert load_foreign("small", weights, 4, (1, 8, 8), {"mean": (0.5,), "std": (0.25,)}).digest == found[1]


def test_sources_are_told_by_their_weights():
    first, second = tiny_net(), tiny_net(seed=5)
    one, other = tagged({"run": first}), tagged({"run": second})
    assert one != other
    assert one == tagged({"run": tiny_net()}) == (f"run, weights {digest_of(first)[:16]}",)
    assert tagged({"call": lambda images: images}) == ("call, weights unknown",)
    source = ToySource(count=6)
    settings = {"threat": ThreatModel("linf", 0.05), "transfer_from": [first, second]}
    record = deconfound.evaluate(tiny_net(seed=2), source, **PLAIN, **settings)
    assert [text[:8] for text in record.sources] == ["source 1", "source 2"]
    assert record.sources == tagged({"source 1": first, "source 2": second})
