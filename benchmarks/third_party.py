"""Networks that others trained, from their files of weights."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from deconfound import models
from deconfound.store import read_weights


def mnist_nets(folder: str) -> dict[str, nn.Module]:
    """The two adversarially trained MNIST networks, by the names of their files."""
    found = {}
    for name, file in (("small", "mnist_small_pgd.pth"), ("lenet5", "mnist_lenet5_adv.pt")):
        model = models.build(name, classes=10, channels=1, size=28)
        models.fit_state(model, read_weights(str(Path(folder) / file))[0], file)
        found[Path(file).stem] = model.eval().requires_grad_(False)
    return found


__all__ = ["mnist_nets"]
