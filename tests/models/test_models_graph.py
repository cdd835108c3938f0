"""Networks as ONNX graphs: the same logits under onnxruntime, for any batch, and nothing of this machine inside."""

from __future__ import annotations

import logging
import sys

import onnx
import pytest
import torch
from torch import nn

from deconfound.errors import InputError
from deconfound.models import CiiV, ResNet, Sampling, build, names
from deconfound.models.graph import BATCH, INPUT, OUTPUT, Headed, check_graphs, run_graph, to_graph
from jobs import images

TOLERANCE = 1e-4
# Narrow forms of the same classes, by the parts of their names.
NARROW = {"resnet50": {"width": 2}, "resnet18": {"width": 4}, "resnet34": {"width": 4}, "vgg": {"width": 4}}
FULL = ("wrn-28-10", "wrn-34-10")


def options_for(name):
    if name == "wrn":
        return {"depth": 10, "widen": 1}
    return next((options for part, options in NARROW.items() if part in name), {})


def made(name):
    return lived(build(name, classes=10, channels=1, size=16, mean=0.3, std=0.4, **options_for(name)))


def lived(network):
    """With statistics of some training, so that folding has something to do."""
    generator = torch.Generator().manual_seed(1)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.2, generator=generator)
            module.running_var.uniform_(0.5, 1.5, generator=generator)
    return network.eval()


def difference(graph, model, pictures):
    with torch.no_grad():
        return float((run_graph(graph, pictures) - model(pictures)).abs().max())


def same_logits(model):
    graph = to_graph(model, images(2), about={})
    for count in (1, 3, 32):
        assert difference(graph, model, images(count)) < TOLERANCE


def test_a_residual_network_with_normalisation():
    same_logits(lived(ResNet(classes=10, channels=1, size=16, mean=0.3, std=0.4, blocks=(1,), width=4)))


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in names() if name not in FULL])
def test_every_name_of_the_catalogue(name):
    same_logits(made(name))


@pytest.mark.parametrize(
    "sampling",
    [Sampling(loops=2), pytest.param(Sampling(version="v1", loops=3), marks=pytest.mark.slow)],
    ids=["v2", "v1"],
)
def test_expected_views_of_a_sampler(sampling):
    inner = build("small", classes=10, channels=sampling.channels(1), size=16)
    model = CiiV(inner, sampling, channels=1, size=16).eval()
    expected = model.expectation()
    graph = to_graph(Headed(expected), images(2), about={})
    for count in (1, 7):
        assert difference(graph, expected, images(count)) < TOLERANCE
    assert not model._rows or all(rows > 0 for rows in model._rows.values())
    again = images(2).requires_grad_()
    expected(again).sum().backward()  # nothing of the trace stays behind
    assert again.grad.isfinite().all()


@pytest.fixture(scope="module")
def graph():
    torch.manual_seed(0)
    return to_graph(made("small"), images(2), about={"about": "a test", "stands_in": "no"}, name="mine")


class TestAGraph:
    def test_names_shapes_and_metadata(self, graph):
        proto = onnx.load_from_string(graph)
        onnx.checker.check_model(proto, full_check=True)
        (entry,), (exit_,) = proto.graph.input, proto.graph.output
        assert (entry.name, exit_.name, proto.graph.name, proto.doc_string) == (INPUT, OUTPUT, "mine", "a test")
        sides = [[d.dim_param or d.dim_value for d in part.type.tensor_type.shape.dim] for part in (entry, exit_)]
        assert sides == [[BATCH, 1, 16, 16], [BATCH, 10]]
        assert {part.key: part.value for part in proto.metadata_props} == {"about": "a test", "stands_in": "no"}

    def test_equal_networks_give_equal_bytes_without_a_word_of_this_machine(self, graph):
        torch.manual_seed(0)
        model = made("small")
        again = to_graph(model, images(2), about={"about": "a test", "stands_in": "no"}, name="mine")
        assert again == graph
        assert difference(graph, model, images(32)) < TOLERANCE
        for word in (b"/home", b"site-packages", b"deconfound/", b".py"):
            assert word not in graph

    def test_a_changed_weight_shows(self, graph):
        torch.manual_seed(0)
        model = made("small")
        with torch.no_grad():
            model.last.bias[3] += 0.01
        assert difference(graph, model, images(4)) > TOLERANCE

    def test_the_network_stays_as_it_was(self):
        model = made("small").train()
        state = {key: value.clone() for key, value in model.state_dict().items()}
        to_graph(model, images(2), about={})
        assert all(module.training for module in model.modules())
        assert all(parameter.requires_grad for parameter in model.parameters())
        assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
        assert logging.getLogger("torch.onnx").level == logging.NOTSET


class Untraceable(nn.Module):
    def forward(self, pictures):
        return pictures.flatten(1)[:, :2] if pictures.sum() > 0 else pictures.flatten(1)[:, 2:4]


def test_what_cannot_be_traced_is_refused():
    with pytest.raises(InputError, match=r"a network that torch.export can trace") as found:
        to_graph(Untraceable(), images(2), about={})
    assert "Untraceable" in str(found.value)


@pytest.mark.parametrize("name", ["onnx", "onnxscript", "onnxruntime"])
def test_a_missing_package_is_one_line(monkeypatch, name):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(InputError, match=r"format: got 'onnx'.*pip install 'deconfound\[export\]'") as found:
        check_graphs()
    assert name in str(found.value)
