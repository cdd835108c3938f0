"""The protocols as the type checker sees them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
SOURCE = HERE.parents[1] / "src"

# The few names that the protocols speak of, precise; everything else in torch is Any. Reading torch itself takes mypy
# a minute without its cache.
STUB = """
from typing import Any
class Tensor:
    def __getattr__(self, name: str) -> Any: ...
    def sum(self) -> Tensor: ...
class dtype: ...
class device: ...
def __getattr__(name: str) -> Any: ...
"""
NN_STUB = """
from typing import Any
class Module:
    training: bool
    def __call__(self, *args: Any) -> Any: ...
    def __getattr__(self, name: str) -> Any: ...
def __getattr__(name: str) -> Any: ...
"""
CONFIG = """
[mypy]
mypy_path = {stubs}:{source}
follow_imports = skip
warn_unused_ignores = true
disallow_untyped_defs = true

[mypy-deconfound.core.*,deconfound.errors,deconfound.functional.*]
follow_imports = silent
"""


def test_what_fits_a_protocol_passes_and_what_does_not_fails(tmp_path):
    pytest.importorskip("mypy")
    torch_stub = tmp_path / "stubs" / "torch"
    (torch_stub / "nn").mkdir(parents=True)
    (torch_stub / "__init__.pyi").write_text(STUB)
    (torch_stub / "nn" / "__init__.pyi").write_text(NN_STUB)
    (torch_stub / "nn" / "functional.pyi").write_text(
        "from typing import Any\ndef __getattr__(name: str) -> Any: ...\n"
    )
    config = tmp_path / "mypy.ini"
    config.write_text(CONFIG.format(stubs=torch_stub.parent, source=SOURCE))
    options = ["--config-file", str(config), "--cache-dir", str(tmp_path / "cache")]

    def check(file):
        command = [sys.executable, "-m", "mypy", *options, str(file)]
        return subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)

    found = check(HERE / "typecheck_protocols.py")
    assert found.returncode == 0, found.stdout + found.stderr

    # The check can fail: without its marks every marked line, and no other, is an error.
    lines = (HERE / "typecheck_protocols.py").read_text().splitlines()
    bare = tmp_path / "bare.py"
    bare.write_text("\n".join(line.split("  # type: ignore")[0] for line in lines))
    marked = {number for number, line in enumerate(lines, 1) if "# type: ignore[" in line}
    found = check(bare)
    errors = {int(line.split(":")[1]) for line in found.stdout.splitlines() if ": error:" in line}
    assert errors == marked, found.stdout
