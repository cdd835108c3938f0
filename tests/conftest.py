"""Shared fixtures: deterministic threads, the folder of real data, tiny networks."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

SHARED = Path(os.environ.get("DECONFOUND_SHARED", Path(__file__).parents[2] / "shared"))


@pytest.fixture(autouse=True, scope="session")
def _threads():
    torch.set_num_threads(1)  # more would only wait for each other where other work shares the processor


@pytest.fixture(autouse=True)
def _global_random_state_is_untouched_by_luck():
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with real data and third-party weights; tests that need it skip where it is absent."""
    if not SHARED.is_dir():
        pytest.skip(f"needs real data and weights, not found at {SHARED} (set DECONFOUND_SHARED)")
    return SHARED
