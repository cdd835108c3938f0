"""Compiled training: what runs compiled, and that nothing else changes."""

from __future__ import annotations

import copy

import pytest
import torch

from deconfound.models import build
from deconfound.models.feature_map import feature_cut
from deconfound.recipes.training import train
from deconfound.training import compiling

# A compiler looks at the gradients of whatever it is given, which is nothing that a user sees.
pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")

SHORT = {"epochs": 1, "steps": 1, "selection.size": 4, "selection.steps": 1, "model": "mlp", "batch_size": 64}


@pytest.fixture
def graphs(monkeypatch):
    """What a compiler was given that leaves it as it is."""
    seen = []

    def backend(graph, examples):
        seen.append(graph)
        return graph.forward

    torch._dynamo.reset()
    monkeypatch.setattr(compiling, "BACKEND", backend)
    yield seen
    torch._dynamo.reset()


def inside(graphs):
    """Names of the weights that the graphs read."""
    return " ".join(str(node.target) for graph in graphs for node in graph.graph.nodes if node.op == "placeholder")


@pytest.mark.parametrize("name", ["pgd-at", "causaladv-m", "causaladv-t", "ciiv"])
def test_the_network_runs_compiled_whatever_way_an_objective_takes(name, graphs):
    changes = SHORT | ({"sampler.loops": 2, "sampler.samples": 1} if name == "ciiv" else {})
    found = train(name, data="digits:train=132", changes=changes | {"compile": True}).record.history
    assert "L_self_modules_hidden" in inside(graphs)
    count = len(graphs)
    plain = train(name, data="digits:train=132", changes=changes).record.history
    assert len(graphs) == count
    for one, other in zip(found, plain, strict=True):
        assert one == pytest.approx(other, abs=1e-6)


def test_copies_and_states_are_whole_and_nothing_stays_behind(graphs):
    model = build("mlp", classes=3, channels=1, size=8).double()
    images, names = torch.rand(4, 1, 8, 8, dtype=torch.float64), list(model.state_dict())
    expected = model.features(images)
    with compiling.compiled([model, torch.nn.Sequential(model)]):
        twin = copy.deepcopy(model)
        assert twin.features.__self__ is twin
        assert list(twin.state_dict()) == list(model.state_dict()) == names
        with torch.no_grad():
            for parameter in twin.parameters():
                parameter.zero_()
        assert torch.equal(model.features(images), expected)
        assert not twin.features(images).any()
        assert len(graphs) > 0
        cut = feature_cut(twin)  # a copy can be traced meanwhile
        assert torch.equal(cut.head(cut.features(images)), twin(images))
    assert not {"features", "head"} & model.__dict__.keys()
    assert torch.equal(model.features(images), expected)
