"""Data families: which defaults (radius, model, schedule) a data set gets."""

from __future__ import annotations

import re

from deconfound.data.naming import base_of
from deconfound.errors import require

FAMILIES = ("digits", "mnist", "fashion", "cifar", "tiny", "shapes", "generic")

# How a folder's or repository's own name begins, letters and numbers only.
_BEGINNINGS = {"fashionmnist": "fashion", "mnist": "mnist", "cifar10": "cifar", "tinyimagenet": "tiny"}
_NAMES = {"digits": "digits", "shapes": "shapes"}
_SHAPES = {(1, 16, 16): "digits", (1, 28, 28): "mnist", (3, 32, 32): "cifar", (3, 64, 64): "tiny"}


def family_of(name: str, shape: tuple[int, int, int], classes: int) -> str:
    """The family of a data set: by the last part of its name where that says it, else by shape, else ``generic``.

    Args:
        name: a data name: ``digits``, a folder, a hub name; upper and lower case, ``-`` and ``_`` do not matter, nor
            does a confounder that is put on the images.
        shape: (C, H, W).
        classes: number of classes, at least 1; every family accepts any number.

    Raises:
        InputError: a shape that is not three positive sizes, or no class.

    >>> family_of("uoft-cs/cifar100", (3, 32, 32), 100), family_of("zalando-datasets/Fashion-MNIST", (1, 28, 28), 10)
    ('cifar', 'fashion')
    >>> family_of("./mine", (1, 28, 28), 26), family_of("./mine", (3, 224, 224), 2)
    ('mnist', 'generic')
    """
    require(len(shape) == 3 and min(shape) > 0, "shape", shape, "three positive sizes (C, H, W)")
    require(classes >= 1, "classes", classes, "at least one class")
    plain = plain_name(name)
    if plain in _NAMES:
        return _NAMES[plain]
    for beginning, family in _BEGINNINGS.items():
        if plain.startswith(beginning):
            return family
    return _SHAPES.get((shape[0], shape[1], shape[2]), "generic")


def plain_name(name: str) -> str:
    """The last part of a data name, letters and numbers only, in lower case, without settings.

    >>> plain_name("uoft-cs/CIFAR-100"), plain_name("shapes:rho=1/3")
    ('cifar100', 'shapes')
    """
    last = re.split(r"[/\\]", base_of(name).rstrip("/\\"))[-1]
    return re.sub(r"[^a-z0-9]", "", last.lower())
