"""The examples run as they stand; the tour of the notebook too."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "examples"
SCRIPTS = sorted(FOLDER.glob("*.py"))

pytestmark = pytest.mark.skipif(not SCRIPTS, reason="needs the checkout: examples do not lie beside the tests")


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_script_runs(script, tmp_path, monkeypatch, capsys):
    """As ``python examples/NAME.py`` does it: its own folder comes first, nothing is left in the working folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(FOLDER))
    try:
        runpy.run_path(str(script), run_name="__main__")
    finally:
        sys.modules.pop(script.stem, None)
    assert list(tmp_path.iterdir()) == []
    assert "reliable" in capsys.readouterr().out.lower()  # no accuracy without its verdict
