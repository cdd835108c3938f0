"""Whole numbers and seeds: what is none is refused in one line, before any work."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch

import deconfound
from deconfound.analysis.matching import Matching
from deconfound.core.threat import ThreatModel
from deconfound.data import load
from deconfound.errors import InputError, require_seed, require_whole
from deconfound.recipes.analysing import Look
from deconfound.recipes.evaluating import Judging


@pytest.mark.parametrize("value", [1.0, 2.5, True, "3", None, 0, float("nan")])
def test_what_is_no_whole_number(value):
    with pytest.raises(InputError, match=r"^draws: got .*; expected a whole number of at least 1$"):
        require_whole("draws", value)
    with nullcontext() if value == 0 else pytest.raises(InputError, match=r"^seed: got .*below 2\^63$"):
        require_seed("seed", value)


def test_whole_numbers_pass():
    require_whole("gallery", 0, 0)
    require_whole("size", None, optional=True)
    require_seed("seed", 2**63 - 1)
    with pytest.raises(InputError, match="seed"):
        require_seed("seed", 2**63)


@pytest.mark.parametrize(
    "made",
    [
        lambda: Judging(seed=1.5),
        lambda: Judging(batch_size=2.5),
        lambda: Judging(gallery=1.5),
        lambda: Judging(gallery=-1),
        lambda: Judging(draws="3"),
        lambda: Judging(loops=True),
        lambda: Judging(audit_min=None),
        lambda: Look(run=".", kind="style", seed="3"),
        lambda: Look(run=".", kind="style", batch_size=2.0),
        lambda: Matching(steps=1.5),
        lambda: load("digits", size=2.5),
        lambda: deconfound.evaluate(torch.nn.Flatten(), torch.rand(2, 1, 1, 2), threat=ThreatModel(), seed=0.5),
    ],
)
def test_settings_that_count_are_whole(made):
    with pytest.raises(InputError, match=r"^\w+: got .*; expected a whole number of at least \d") as caught:
        made()
    assert "\n" not in str(caught.value)
