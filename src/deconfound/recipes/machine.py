"""Where a figure was measured."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from functools import cache
from importlib import metadata
from pathlib import Path

import torch

from deconfound.records import Machine

_PACKAGES = ("deconfound", "torch", "lightning-fabric", "datasets", "safetensors", "numpy")


def version(package: str) -> str:
    """The installed version of a package."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


@cache
def commit() -> str:
    """The commit that this library runs from, with ``-dirty`` where files differ from it; empty outside a checkout.

    It is asked for once, and by long work before it begins: what a process has loaded is what lay there then. Empty too
    where git does not answer.
    """
    here, git = Path(__file__), shutil.which("git")
    if git is None:
        return ""

    def asked(*words: str) -> str:
        try:
            done = subprocess.run([git, *words], cwd=here.parent, capture_output=True, text=True, timeout=20)
        except (OSError, subprocess.TimeoutExpired):  # a slow disk costs the commit's name, not what was trained
            return ""
        return done.stdout.strip() if done.returncode == 0 else ""

    known = asked("ls-files", "--error-unmatch", here.name)  # a repository around an installation is not ours
    return asked("describe", "--always", "--dirty", "--abbrev=40", "--exclude=*") if known else ""


def processor_name() -> str:
    """The processor's model name, as far as the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    named = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "")
    return f"{named or platform.processor() or platform.machine()}, {os.cpu_count()} cores"


def describe(device: torch.device | str = "cpu") -> Machine:
    """Device, processor, threads, versions and commit."""
    device = torch.device(device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    versions = {package: version(package) for package in _PACKAGES} | {"python": platform.python_version()}
    threads = torch.get_num_threads()
    return Machine(device=name, processor=processor_name(), threads=threads, versions=versions, commit=commit())
