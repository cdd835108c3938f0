"""What every attack owes a model of any kind, left as found. An attack that joins the registry is tested here."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from deconfound.core.streams import Streams
from deconfound.core.threat import ThreatModel
from registered_attacks import NORMS, build, every_attack, everything, examples, keeps, labelled, small_net, threat_of


class Breaking(nn.Module):
    """Raises at its n-th forward."""

    def __init__(self, inner, at):
        super().__init__()
        self.inner, self.left = inner, at

    def forward(self, images):
        self.left -= 1
        if self.left == 0:
            raise RuntimeError("planted")
        return self.inner(images)


@everything
@pytest.mark.parametrize("training", [True, False])
def test_model_and_random_state_are_left_as_found(name, norm, keep, training):
    model, images = small_net().train(training), examples()
    model[0].eval()
    model[0].bias.requires_grad_(False)
    model[5].weight.grad = torch.ones_like(model[5].weight)
    labels = torch.zeros(16, dtype=torch.int64)
    before = [module.training for module in model.modules()]
    buffers = {key: value.clone() for key, value in model.state_dict().items()}
    state, originals = torch.random.get_rng_state(), images.clone()
    build(name, ThreatModel(norm, NORMS[norm]), **keep)(model, images, labels)
    assert [module.training for module in model.modules()] == before
    assert [p.requires_grad for p in model.parameters()] == [True, False, True, True, True, True]
    assert [p.grad is not None for p in model.parameters()] == [False] * 4 + [True, False]
    assert (model[5].weight.grad == 1).all()
    assert all(torch.equal(value, buffers[key]) for key, value in model.state_dict().items())
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(images, originals)
    assert not images.requires_grad
    assert not model._forward_hooks


@everything
@pytest.mark.parametrize("at", [1, 2])
def test_an_error_inside_the_model_leaves_everything_as_found(name, norm, keep, at):
    model = Breaking(small_net(), at).train()
    state = torch.random.get_rng_state()
    attack = build(name, ThreatModel(norm, NORMS[norm]), **keep)
    if keep.get("keep") == "last":
        at = model.left = min(at, attack.settings()["steps"])  # that many forwards there are
    with pytest.raises(RuntimeError, match="planted"):
        attack(model, examples(), torch.zeros(16, dtype=torch.int64))
    assert all(module.training for module in model.modules())
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.is_grad_enabled()
    assert not model._forward_hooks


@everything
@pytest.mark.parametrize("caller", [torch.no_grad, torch.inference_mode])
def test_works_the_same_for_callers_without_gradients(name, norm, keep, caller):
    model, images = small_net(), examples()
    labels = labelled(model, images)
    attack = build(name, ThreatModel(norm, NORMS[norm]), **keep)
    expected = attack(model, images, labels)
    with caller():
        found = attack(model, images.clone(), labels.clone(), Streams(0, range(16)))  # clones are inference tensors
        assert not torch.is_grad_enabled()
    assert torch.equal(found, expected)
    assert not found.is_inference()


@every_attack
def test_bfloat16_autocast_keeps_the_iterate_in_float32(name):
    model, images = small_net().float(), examples().float()
    attack = build(name, threat_of(name))
    labels = labelled(model, images)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = attack(model, images, labels)
    assert found.dtype == torch.float32
    assert attack.threat.contains(found, images).all()
    assert (found != images).any()


@every_attack
def test_a_model_of_nan_and_infinity_counts_as_wrong_and_harms_nothing(name):
    class Poisoned(nn.Module):
        def forward(self, images):
            pixel = images.flatten(1)
            return torch.stack([pixel.sum(1), torch.where(pixel[:, 0] > 0.5, torch.nan, -10.0) * pixel[:, 1]], dim=1)

    attack, images = build(name, threat_of(name)), examples()
    labels = torch.zeros(16, dtype=torch.int64)
    silent = images[:, 0, 0, 0] > 0.5
    for keep in keeps(name):
        found = build(name, threat_of(name), **keep)(Poisoned(), images, labels)
        assert attack.threat.contains(found, images).all()
        assert torch.equal(found[silent], images[silent]) or keep.get("keep") == "last"


@every_attack
def test_a_model_without_input_gradient_is_attacked_in_vain_not_in_error(name):
    def steps(images):
        with torch.no_grad():
            return torch.stack([images.mean((1, 2, 3)), torch.zeros(len(images), dtype=images.dtype)], dim=1)

    images = examples()
    found = build(name, threat_of(name))(steps, images, torch.zeros(16, dtype=torch.int64))
    assert torch.equal(found, images)


@every_attack
def test_channels_last_weights_and_plain_functions_are_models_too(name):
    model, images = small_net(), examples()
    labels = labelled(model, images)
    attack = build(name, threat_of(name))
    expected = attack(model, images, labels)
    model.eval()
    assert torch.equal(attack(lambda x: model(x), images, labels), expected)
    converted = model.to(memory_format=torch.channels_last)
    torch.testing.assert_close(attack(converted, images, labels), expected, rtol=0, atol=1e-9)
