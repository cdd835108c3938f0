"""Which family a data set belongs to."""

from __future__ import annotations

import pytest

from deconfound.data.families import FAMILIES, family_of
from deconfound.errors import InputError

ODD = (3, 17, 19)


@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("digits", "digits"),
        ("shapes", "shapes"),
        ("../shared/data/mnist", "mnist"),
        ("ylecun/mnist", "mnist"),
        ("ylecun/MNIST/", "mnist"),
        ("../shared/data/fashion_mnist", "fashion"),
        ("zalando-datasets/Fashion-MNIST", "fashion"),
        ("FashionMNIST", "fashion"),
        ("uoft-cs/cifar10", "cifar"),
        ("uoft-cs/cifar100", "cifar"),
        ("data/CIFAR-10", "cifar"),
        ("zh-plus/tiny-imagenet", "tiny"),
        ("/data/tiny_imagenet_200", "tiny"),
        ("mnist/cats", "generic"),
        ("cifar10_tools:load", "cifar"),
        ("owner/dshapes3", "generic"),
    ],
)
def test_by_name_whatever_the_shape(name, family):
    assert family_of(name, ODD, 10) == family
    assert family in FAMILIES


@pytest.mark.parametrize(
    ("shape", "family"),
    [
        ((1, 16, 16), "digits"),
        ((1, 28, 28), "mnist"),
        ((3, 32, 32), "cifar"),
        ((3, 64, 64), "tiny"),
        ((3, 28, 28), "generic"),
        ((1, 32, 32), "generic"),
        ((3, 224, 224), "generic"),
    ],
)
def test_by_shape_where_the_name_says_nothing(shape, family):
    assert family_of("./mine", shape, 3) == family


def test_bad_input():
    with pytest.raises(InputError, match="shape"):
        family_of("x", (3, 32), 10)
    with pytest.raises(InputError, match="classes"):
        family_of("x", (3, 32, 32), 0)
