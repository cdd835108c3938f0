"""Normalisation: the formula, the broadcast, the checks, and its absence from the state dict."""

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import fx, nn

from deconfound.errors import InputError
from deconfound.models.normalise import Normalise


@given(
    mean=st.lists(st.floats(0, 1, width=32), min_size=3, max_size=3),
    std=st.lists(st.floats(0.0625, 2, width=32), min_size=3, max_size=3),
)
def test_subtracts_and_divides_per_channel(mean, std):
    images = torch.linspace(0, 1, 24).view(2, 3, 2, 2)
    result = Normalise(mean, std, channels=3)(images)
    for channel in range(3):
        expected = (images[:, channel] - torch.tensor(mean[channel])) / torch.tensor(std[channel])
        assert torch.equal(result[:, channel], expected)


def test_one_value_serves_all_channels():
    images = torch.rand(2, 3, 4, 4)
    assert torch.equal(Normalise(0.4, 0.2, channels=3)(images), Normalise([0.4] * 3, [0.2] * 3, channels=3)(images))
    assert torch.equal(Normalise([0.4], [0.2], channels=3)(images), (images - 0.4) / 0.2)


def test_none_means_no_normalisation():
    images = torch.rand(2, 1, 4, 4)
    assert Normalise(channels=1)(images) is images


def test_is_configuration_not_weights():
    module = Normalise(0.5, 0.25, channels=3)
    assert not module.state_dict()
    assert {name for name, _ in module.named_buffers()} == {"mean", "std"}
    assert module.double()(torch.rand(1, 3, 2, 2, dtype=torch.float64)).dtype == torch.float64
    assert torch.equal(copy.deepcopy(module).mean, module.mean)


def test_a_grey_image_is_not_broadcast_to_three_channels():
    with pytest.raises(InputError, match=r"images: got 'shape \(2, 1, 4, 4\)'; expected shape \(B, 3, H, W\)"):
        Normalise(0.5, 0.25, channels=3)(torch.rand(2, 1, 4, 4))
    with pytest.raises(InputError, match="images"):
        Normalise(channels=3)(torch.rand(3, 4, 4))


def test_stays_traceable_with_its_check():
    traced = fx.symbolic_trace(nn.Sequential(Normalise(0.5, 0.25, channels=3), nn.Flatten()))
    assert torch.equal(traced(torch.ones(1, 3, 1, 1)), torch.full((1, 3), 2.0))
    with pytest.raises(InputError):
        traced(torch.ones(1, 1, 1, 1))


@pytest.mark.parametrize(
    ("mean", "std", "field"),
    [
        (0.5, None, "std"),
        (None, 0.5, "mean"),
        ([0.1, 0.2], 0.5, "mean"),
        (0.5, [0.5, 0.5], "std"),
        (0.5, 0.0, "std"),
        (0.5, [0.5, 0.5, -1.0], "std"),
        (float("nan"), 0.5, "mean"),
        (0.5, float("inf"), "std"),
        ("grey", 0.5, "mean"),
        ([[0.1], [0.2], [0.3]], 0.5, "mean"),
    ],
)
def test_bad_values_are_named(mean, std, field):
    with pytest.raises(InputError, match=f"^{field}: ") as caught:
        Normalise(mean, std, channels=3)
    assert "\n" not in str(caught.value)
