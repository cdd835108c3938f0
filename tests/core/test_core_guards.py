"""Guards put everything back, also after an error."""

from __future__ import annotations

import sys
from contextlib import contextmanager

import pytest
import torch
from torch import nn

from deconfound.core.guards import (
    attacking,
    evaluating,
    frozen,
    full_float32,
    moded,
    randomness_kept,
    seeded,
    working_folder_importable,
)


class Boom(Exception):
    pass


@contextmanager
def surviving():
    with pytest.raises(Boom):
        yield


def net():
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Dropout(0.5), nn.Linear(3, 2))
    model[0].bias.requires_grad_(False)
    model[2].eval()
    return model


def flags(model):
    return [p.requires_grad for p in model.parameters()]


def modes(model):
    return [m.training for m in model.modules()]


@pytest.mark.parametrize("fails", [False, True])
def test_frozen_restores_flags_and_keeps_gradients(fails):
    model = net()
    model(torch.rand(4, 3)).sum().backward()
    gradients = [None if p.grad is None else p.grad.clone() for p in model.parameters()]
    before = flags(model)
    assert before.count(False) == 1

    def body():
        with frozen(model, print):
            assert not any(flags(model))
            images = torch.rand(4, 3, requires_grad=True)
            model(images).sum().backward()
            assert images.grad is not None
            model[3].weight.requires_grad_(True)  # whatever happens inside
            model[0].bias.requires_grad_(True)
            if fails:
                raise Boom

    if fails:
        with surviving():
            body()
    else:
        body()
    assert flags(model) == before
    for parameter, gradient in zip(model.parameters(), gradients, strict=True):
        assert (parameter.grad is None) == (gradient is None)
        assert gradient is None or torch.equal(parameter.grad, gradient)


@pytest.mark.parametrize("mode", ["eval", "train", "keep"])
def test_moded_restores_the_flag_of_every_submodule(mode):
    model = net().train()
    model[2].eval()
    before = modes(model)
    with surviving(), moded(mode, model, lambda x: x):
        assert modes(model) == {"eval": [False] * 5, "train": [True] * 5, "keep": before}[mode]
        model[1].eval()
        raise Boom
    assert modes(model) == before
    with evaluating(model):
        assert not any(modes(model))
    assert modes(model) == before


def test_evaluating_leaves_batchnorm_alone():
    model = net().train()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    with evaluating(model):
        model(torch.rand(8, 3))
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def test_random_state_comes_back():
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    with randomness_kept():
        torch.rand(100)
    with surviving(), seeded(7):
        raise Boom
    with seeded(7):
        inside = torch.rand(2)
    assert torch.equal(torch.rand(3), expected)
    torch.manual_seed(7)
    assert torch.equal(torch.rand(2), inside)


def test_attacking_is_all_of_them_and_turns_gradients_on():
    model = net().train()
    before = modes(model), flags(model), torch.get_rng_state()
    with torch.no_grad(), surviving(), attacking("eval", "cpu", model):
        assert torch.is_grad_enabled()
        assert not any(modes(model))
        assert not any(flags(model))
        torch.rand(5)
        raise Boom
    assert (modes(model), flags(model)) == before[:2]
    assert torch.equal(torch.get_rng_state(), before[2])
    with torch.no_grad():
        with attacking("keep", "cpu", model):
            assert modes(model) == before[0]
        assert not torch.is_grad_enabled()


def test_guards_nest():
    model = net().train()
    before = modes(model), flags(model)
    with evaluating(model), moded("train", model), frozen(model), frozen(model):
        assert all(modes(model))
    assert (modes(model), flags(model)) == before


def test_full_float32_is_put_back(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    torch.set_float32_matmul_precision("high")
    try:
        with full_float32():
            assert torch.get_float32_matmul_precision() == "highest"
            assert not torch.backends.cudnn.allow_tf32
        assert torch.get_float32_matmul_precision() == "high"
        assert torch.backends.cudnn.allow_tf32
    finally:
        torch.set_float32_matmul_precision("highest")


def test_the_working_folder_can_be_imported_from(tmp_path, monkeypatch):
    (tmp_path / "lies_in_the_working_folder.py").write_text("value = 3")
    monkeypatch.chdir(tmp_path)
    before = list(sys.path)
    with working_folder_importable():
        import lies_in_the_working_folder
    assert lies_in_the_working_folder.value == 3
    assert sys.path == before
