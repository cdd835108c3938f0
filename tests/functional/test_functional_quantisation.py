"""Quantisation with noise: recorded numbers, and what follows from the equation."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from deconfound.errors import InputError
from deconfound.functional.quantisation import noise_scale, quantise

LEVELS = torch.arange(256) / 255


@pytest.mark.parametrize("bits", [5, 6, 7])
def test_golden(shared, bits):
    golden = {key: torch.from_numpy(value) for key, value in np.load(shared / "golden/bpfc_quantisation.npz").items()}
    noise, expected = golden[f"noise_{bits}"], golden[f"quantised_{bits}"]
    assert noise.abs().max() <= noise_scale(bits)
    assert (quantise(golden["images"], noise, bits) - expected).abs().max() <= 1e-5 * expected.abs().max()


@pytest.mark.parametrize("bits", range(1, 8))
def test_without_noise_it_keeps_the_upper_bits_and_centres_the_rest(bits):
    found = (quantise(LEVELS, torch.zeros(256), bits) * 255).round().to(torch.int64)
    levels = torch.arange(256)
    assert torch.equal(found, (levels >> bits << bits) + 2 ** (bits - 1))
    assert len(found.unique()) == 2 ** (8 - bits)


def test_noise_below_black_and_above_white_is_clipped():
    dark = quantise(torch.zeros(2), torch.tensor([-0.5, -8.0]), 5) * 255
    assert dark.tolist() == [0.0, 0.0]  # -16 is the middle of the range below black
    white = quantise(torch.ones(2), torch.tensor([0.5, 8.0]), 5) * 255
    assert white.tolist() == [240.0, 255.0]  # 272 is above white


@pytest.mark.parametrize(("bits", "scale"), [(1, 0.5), (2, 1.0), (3, 2.0), (4, 4.0), (5, 8.0), (6, 8.0), (7, 8.0)])
def test_noise_scale(bits, scale):
    assert noise_scale(bits) == scale


def test_it_has_no_gradient_and_rounds_first():
    images = torch.tensor([0.5], requires_grad=True)
    (gradient,) = torch.autograd.grad(quantise(images, torch.zeros(1), 3).sum(), images)
    assert gradient.item() == 0
    assert quantise(torch.tensor([31.4 / 255, 31.6 / 255]), torch.zeros(2), 5).mul(255).round().tolist() == [16, 48]


@pytest.mark.parametrize("bits", [0, 8, -1, 5.0, True, "5"])
def test_bad_input(bits):
    with pytest.raises(InputError, match=r"bits: got .*expected a whole number from 1 to 7"):
        quantise(LEVELS, LEVELS, bits)
