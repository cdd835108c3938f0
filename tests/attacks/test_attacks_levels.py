"""Levels of 0 to 255 where pixels of [0, 1] are meant, which no attack may take in silence."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from deconfound.attacks import APGD, FGSM, PGD, Square
from deconfound.core.threat import ThreatModel
from deconfound.errors import InputError
from toys import tiny_net

THREAT = ThreatModel("linf", "8/255")
IMAGES = torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("make", [PGD, FGSM, APGD, Square])
def test_images_outside_the_box(make):
    model = tiny_net()
    labels = model(IMAGES).argmax(dim=1)
    for wrong in (IMAGES * 255, IMAGES - 0.5, IMAGES.index_fill(0, torch.tensor(2), torch.nan)):
        with pytest.raises(
            InputError, match=r"images: got 'values from .*; expected pixels in \[0, 1\]; divide levels"
        ):
            make(THREAT)(model, wrong, labels)


def test_a_box_of_ones_own_is_kept_to():
    wide = ThreatModel("linf", 8.0, (0, 255))
    model = tiny_net()
    labels = model(IMAGES * 255).argmax(dim=1)
    assert PGD(wide, steps=2, step_size=2.0)(model, IMAGES * 255, labels).max() <= 255


def test_a_radius_in_levels():
    for norm in ("linf", "Linf"):
        with pytest.raises(InputError, match=r"^eps: got 8; expected at most 1 for linf: .* eight levels are 8/255$"):
            ThreatModel(norm, 8)
    with pytest.raises(InputError, match=r"eps: got 2; expected at most 1 for linf"):
        THREAT.with_eps(2)
    assert (ThreatModel("l2", 8).eps, ThreatModel("linf", 1).eps, ThreatModel("linf", 2, (-1, 1)).eps) == (8, 1, 2)


def test_a_step_in_levels():
    with pytest.raises(InputError, match=r"step_size: got 2.0; expected at most 1 for linf, .* levels are 2/255"):
        PGD(THREAT, step_size=2)
    assert PGD(ThreatModel("l2", 8), step_size=2).step == 2


def test_numbers_of_numpy_are_numbers():
    assert ThreatModel("linf", np.float32(0.25)).eps == 0.25
    assert type(ThreatModel("linf", np.float32(0.25)).eps) is float
    with pytest.raises(InputError, match="eps: got"):
        ThreatModel("linf", np.float32("inf"))
