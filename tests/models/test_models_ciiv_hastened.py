"""The fast double of CiiV: the same views, nearly the same logits, and the attacks that the model declares."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import deconfound
from deconfound.core.streams import Streams
from deconfound.models import CiiV, Sampling
from deconfound.models.ciiv_hastened import HastenedCiiV, hastened
from deconfound.models.fast import ITSELF
from deconfound.models.sampler import Sampler
from deconfound.models.sampler_compiled import CompiledSampler

IMAGES, LABELS = torch.rand(6, 1, 32, 32, generator=torch.Generator().manual_seed(1)), torch.arange(6)


def made(version="v2", precision="bf16", loops=3):
    torch.manual_seed(0)
    sampling = Sampling(version=version, loops=loops, amplitude=0.8)
    inner = deconfound.models.build("small", classes=10, channels=sampling.channels(1), size=32)
    model = CiiV(inner, sampling, channels=1, size=32).eval()
    return model, hastened(model, IMAGES, LABELS, precision=precision)


@pytest.fixture(scope="module", params=["v1", "v2"])
def pair(request):
    model, found = made(request.param)
    assert isinstance(found.classifier, HastenedCiiV)
    return model, found


def test_draws_are_the_models_but_for_the_precision(pair):
    model, found = pair
    streams = Streams(3, range(6))
    one, other = model.draw(IMAGES, streams, 4), found.classifier.draw(IMAGES, streams, 4)
    centred = one - one.mean(dim=2, keepdim=True)
    assert 0 < (other - one).norm() / centred.norm() < 0.05
    again = found.classifier.draw(IMAGES, streams, 4)
    assert torch.equal(again, other)
    assert found.rung.startswith("its network in bfloat16")
    assert found.agreement.gradient_share > 0.9


def test_float32_is_as_near_as_float32_is():
    model, found = made(precision="32")
    streams = Streams(3, range(6))
    assert torch.allclose(found.classifier.draw(IMAGES, streams, 2), model.draw(IMAGES, streams, 2), atol=1e-4)


def test_it_declares_what_the_model_declares(pair):
    model, found = pair
    streams = Streams(0, range(6))
    for own, other in zip(model.attack_surrogates(), found.classifier.attack_surrogates(), strict=True):
        assert (own.name, own.loss, type(own.surrogate)) == (other.name, other.loss, type(other.surrogate))
        climbed = model if "consistency" in own.name else found.classifier  # R needs features
        assert other.surrogate.model is climbed
        gradients = []
        for surrogate in (own.surrogate, other.surrogate):
            images = IMAGES.clone().requires_grad_()
            logits = surrogate(images) if "-b" in own.name else surrogate.draw(images, streams, 2).mean(dim=0)
            gradients.append(torch.autograd.grad(nn.functional.cross_entropy(logits, LABELS), images)[0])
        same = (gradients[0].sign() == gradients[1].sign()) * gradients[0].abs()
        assert same.sum() / gradients[0].abs().sum() > 0.9, own.name


def test_it_looks_as_often_as_it_is_told(pair):
    _, found = pair
    fewer = found.classifier.with_loops(2)
    assert isinstance(fewer, HastenedCiiV)
    assert fewer.sampling.loops == 2
    assert fewer.draw(IMAGES, Streams(0, range(6)), 1).shape == (1, 6, 10)


def test_the_models_weights_are_left_alone(pair):
    model, found = pair
    assert not {id(p) for p in model.parameters()} & {id(p) for p in found.classifier.parameters()}
    assert all(p.dtype == torch.float32 and p.requires_grad for p in model.parameters())
    assert not any(p.requires_grad for p in found.classifier.parameters())


@pytest.mark.parametrize("version", ["v1", "v2"])
@pytest.mark.parametrize("centres", ["grid", "cells", "random"])
def test_a_compiled_sampler_draws_the_same_views(version, centres):
    """Through the tracer alone, without a machine's compiler: same numbers, same views, same slopes."""
    settings = Sampling(version=version, loops=4, amplitude=0.8, centres=centres)
    plain, program = Sampler(settings, (32, 32)), CompiledSampler(settings, (32, 32), "eager")
    images = torch.rand(11, settings.channels(1) if version == "v2" else 1, 32, 32)  # one program holds eight
    streams = Streams(3, range(11))
    for slope in ("none", "expected", "wide", "raw"):
        found = []
        for sampler in (plain, program):
            moved = images.clone().requires_grad_(slope != "none")
            views, exposure = sampler(moved, streams, slope)
            weight = torch.linspace(-1, 1, views.numel()).view_as(views)
            slopes = torch.autograd.grad((views * weight).sum(), moved)[0] if slope != "none" else torch.zeros(1)
            found.append((views.detach(), exposure, slopes))
        for one, other in zip(*found, strict=True):
            assert one.shape == other.shape
            assert torch.allclose(one, other, atol=2e-3)
            assert (one - other).abs().mean() < 1e-5


def test_a_compiled_double(monkeypatch):
    model, _ = made()
    found = hastened(model, IMAGES, LABELS, precision="bf16", compiler="eager")
    assert found.rung.endswith("sampler compiled")
    assert isinstance(found.classifier.with_loops(2).sampler, CompiledSampler)
    plain = hastened(model, IMAGES, LABELS, precision="bf16").classifier
    streams = Streams(1, range(6))
    assert torch.allclose(plain.draw(IMAGES, streams, 2), found.classifier.draw(IMAGES, streams, 2), atol=1e-2)
    monkeypatch.setattr(CompiledSampler, "_drawn", lambda *_: [torch.zeros(8, 3, 3, 32, 32), torch.ones(8, 3)])
    other = hastened(model, IMAGES, LABELS, precision="bf16", compiler="eager")
    assert not isinstance(other.classifier.sampler, CompiledSampler)
    assert other.notes[-1].startswith("sampler not compiled: views differ by 0.")


def test_a_compiler_that_is_not_there_is_a_note():
    model, _ = made()
    found = hastened(model, IMAGES, LABELS, precision="bf16", compiler="no-such-backend")
    assert not isinstance(found.classifier.sampler, CompiledSampler)
    assert found.notes[-1].startswith("sampler not compiled: ")


class Twofold(nn.Module):
    """Its forward is not its head on its features."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Linear(3 * 32 * 32, 10)

    def features(self, rows):
        return rows.flatten(1)

    def head(self, features):
        return self.weight(features)

    def forward(self, rows):
        return 2 * self.head(self.features(rows))


def test_a_network_that_does_not_add_up_climbs_itself():
    model = CiiV(Twofold(), Sampling(loops=2), channels=1, size=32).eval()
    found = hastened(model, IMAGES, LABELS)
    assert found.classifier is model
    assert (found.rung, found.notes) == (ITSELF, ("the network's forward is not its head on its features",))


def test_evaluations_climb_it_and_say_so():
    model, _ = made()
    record = deconfound.evaluate(
        model, IMAGES, LABELS, threat=deconfound.ThreatModel("linf", 0.1), suite="pgd-2", budget="demo",
        precision="bf16", checks=False, curve=False,
    )  # fmt: skip
    assert record.surrogate.startswith("its network in bfloat16")
    fewer = deconfound.evaluate(
        model, IMAGES, LABELS, threat=deconfound.ThreatModel("linf", 0.1), suite="pgd-2", budget="demo",
        precision="bf16", checks=False, curve=False, loops=1,
    )  # fmt: skip
    assert fewer.surrogate.startswith("the model with 1 of its views, its network in bfloat16")
