"""What a pass takes: multiplications, bytes of activations, the batch that fits."""

import pytest
from torch import nn

from deconfound.errors import InputError
from deconfound.models import build
from deconfound.models.footprint import LARGEST_BATCH, activation_bytes, batch_size_within, multiply_adds
from foldable import Body, images


def test_multiply_adds_of_known_networks():
    assert multiply_adds(build("small", classes=10, channels=1, size=28), images(1, 28)) == 609_384
    assert multiply_adds(nn.Conv2d(3, 4, 3, groups=1, padding=1), images()) == 64 * 4 * 27
    assert multiply_adds(nn.Conv2d(4, 4, 3, groups=4, padding=1), images(4)) == 64 * 4 * 9


def test_activation_bytes_in_closed_form():
    model = nn.Sequential(nn.Sigmoid(), nn.Tanh(), nn.Flatten(), nn.Linear(192, 3))
    saved = 2 * 192 * 4  # the outputs of sigmoid and tanh; the linear layer's weight is the model's own
    assert activation_bytes(model, images()) == saved + 3 * 192 * 4
    assert activation_bytes(model.double(), images().double()) == 2 * (saved + 3 * 192 * 4)


def test_batch_size_within_a_bound():
    model = Body()
    each = activation_bytes(model, images())
    assert batch_size_within(model, images(), 10 * each) == 10
    assert batch_size_within(model, images(), 11 * each - 1) == 10
    assert batch_size_within(model, images(), 1) == 1
    assert batch_size_within(model, images(), 10**12) == LARGEST_BATCH
    with pytest.raises(InputError, match="limit_bytes"):
        batch_size_within(model, images(), 0)
