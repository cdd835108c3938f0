"""A tiny run that the tests of this room share, and a writer of files."""

from __future__ import annotations

import pytest

from deconfound.recipes.training import train

TINY = {"epochs": 2, "steps": 2, "selection.steps": 1}


@pytest.fixture
def tiny():
    """Changes that make a training on digits last a fraction of a second."""
    return dict(TINY)


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """A finished run of pgd-at on digits; not to be written to."""
    return train("pgd-at", out=tmp_path_factory.mktemp("runs") / "pgd-at", changes=TINY)


@pytest.fixture
def write(tmp_path):
    """``write("a.json", record)`` -> its path."""

    def writer(name, record):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(record if isinstance(record, str) else record.to_json())
        return path

    return writer
