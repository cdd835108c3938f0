"""A small trained network that the tests of masking checks share."""

from __future__ import annotations

import pytest

from masking_scene import trained


@pytest.fixture(scope="module")
def net():
    return trained()
