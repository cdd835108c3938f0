"""The notebook of the examples is executed as it stands, and is kept without outputs."""

from __future__ import annotations

import os
import re
import tempfile
from pathlib import Path

import pytest

import deconfound

NOTEBOOK = Path(__file__).parents[1] / "examples" / "tour.ipynb"

pytestmark = pytest.mark.skipif(
    not NOTEBOOK.exists(), reason="needs the checkout: examples do not lie beside the tests"
)


@pytest.fixture(scope="module")
def notebook():
    nbformat = pytest.importorskip("nbformat")
    found = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(found)
    return found


def code_of(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def test_outputs_are_not_stored(notebook):
    """They would be figures that nobody measured again, and pictures in every change of a line."""
    assert [cell.outputs for cell in code_of(notebook)] == [[]] * len(code_of(notebook))
    assert {cell.execution_count for cell in code_of(notebook)} == {None}


def test_links_lead_somewhere(notebook):
    text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    links = re.findall(r"\]\((.+?)\)", text)
    assert {NOTEBOOK.parent / link for link in links} == set(NOTEBOOK.parent.glob("*.py"))


@pytest.fixture
def kernel_settings(monkeypatch):
    """The kernel imports the library under test, on one thread; it is spoken to by files, not by a network."""
    from traitlets.config import Config

    library = str(Path(deconfound.__file__).parents[1])
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([library, os.environ.get("PYTHONPATH", "")]).strip(os.pathsep))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    with tempfile.TemporaryDirectory(prefix="k") as short:  # the name of a socket has a limit
        monkeypatch.setenv("JUPYTER_RUNTIME_DIR", short)
        monkeypatch.setenv("IPYTHONDIR", short)
        yield Config({"KernelManager": {"transport": "ipc", "ip": f"{short}/kernel"}})


@pytest.mark.notebook
def test_the_tour_runs(notebook, kernel_settings, tmp_path):
    nbclient = pytest.importorskip("nbclient")
    options = {"timeout": None, "startup_timeout": 600, "kernel_name": "python3", "config": kernel_settings}
    nbclient.NotebookClient(notebook, resources={"metadata": {"path": str(tmp_path)}}, **options).execute()
    files = {file.name for file in tmp_path.rglob("*.*")}
    assert files >= {"report.html", "model.safetensors", "reliance.json", "reliance.svg"}
    outputs = [output for cell in code_of(notebook) for output in cell.outputs]
    kinds = {kind for output in outputs for kind in output.get("data", {})}
    assert {"image/png", "image/svg+xml", "text/html"} <= kinds
    assert not [output for output in outputs if output.get("name") == "stderr"]
