"""What the library imports is installed with it, but for what has an extra of its own or is named by its user."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

ROOT = Path(__file__).parents[1]
# Loaded only for a network, a tracker, an export or an attack that asks for it; each is refused by name where missing.
OPTIONAL = {"timm", "torchvision", "mlflow", "wandb", "onnx", "onnxscript", "onnxruntime", "foolbox", "torchattacks",
            "art", "adv_lib"}  # fmt: skip


def _imported():
    """Top-level modules of others, each with a file that imports it."""
    found = {}
    for file in sorted((ROOT / "src").rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [node.module]
            else:
                continue
            found |= {name.partition(".")[0]: file.name for name in names}
    return {name: file for name, file in found.items() if name not in {*sys.stdlib_module_names, "deconfound"}}


def _installed_with_it():
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    return {re.split(r"[<>=!~\[; ]", one)[0].lower().replace("_", "-") for one in wanted}


def test_every_import_is_a_dependency():
    dependencies, homes = _installed_with_it(), packages_distributions()
    lacking = {
        name: file
        for name, file in _imported().items()
        if name not in OPTIONAL and not {home.lower().replace("_", "-") for home in homes[name]} & dependencies
    }
    assert lacking == {}


def test_the_demo_asks_for_nothing_else():
    assert {"linearmodels", "captum"} <= _installed_with_it()  # of its analyses
