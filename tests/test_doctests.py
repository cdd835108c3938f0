"""Every example in a docstring runs, in the installed package."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest

import deconfound

MODULES = sorted(
    found.name for found in pkgutil.walk_packages(deconfound.__path__, "deconfound.") if "__main__" not in found.name
)


@pytest.mark.parametrize("name", MODULES)
def test_examples(name):
    failed, _ = doctest.testmod(importlib.import_module(name), raise_on_error=False)
    assert failed == 0


def test_there_are_examples():
    finder = doctest.DocTestFinder()
    assert sum(bool(test.examples) for name in MODULES for test in finder.find(importlib.import_module(name))) > 20
