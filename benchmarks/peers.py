"""Attacks of other libraries behind one call, for comparison."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import torch
from torch import Tensor, nn

Attack = Callable[[nn.Module, Tensor, Tensor], Tensor]
STAGES = ("apgd-ce", "apgd-t", "fab-t", "square")


def autoattack(eps: float, seed: int, share: float = 1.0, batch_size: int = 250, stages=STAGES, norm="Linf"):
    """Pyautoattack's standard suite; ``share`` shortens every budget, for ratios of time that need no full run.

    Returns a function (model, images, labels) -> images.
    """
    from pyautoattack import AutoAttack

    def run(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        theirs = AutoAttack(model, norm=norm, eps=eps, seed=seed, version="standard", device=str(images.device))
        theirs.attacks_to_run = list(stages)
        for attack in (theirs.apgd, theirs.apgd_targeted):
            attack.n_iter = attack.n_iter_orig = max(1, round(100 * share))
            for name, part in (("n_iter_2", 0.22), ("n_iter_min", 0.06), ("size_decr", 0.03)):
                setattr(attack, name, max(int(part * attack.n_iter), 1))
        theirs.fab.n_iter = max(1, round(100 * share))
        theirs.square.n_queries = max(1, round(5000 * share))
        return theirs.run_standard_evaluation(images, labels, batch_size=batch_size)[0]

    return run


def torchattacks_pgd(eps: float, steps: int, step_size: float) -> Attack:
    import torchattacks

    return lambda model, images, labels: torchattacks.PGD(model, eps=eps, alpha=step_size, steps=steps)(images, labels)


def adv_lib_pgd(eps: float, steps: int, step_size: float) -> Attack:
    from adv_lib.attacks import pgd_linf

    def run(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        return pgd_linf(model, images, labels, ε=eps, steps=steps, absolute_step_size=step_size)

    return run


def foolbox_pgd(eps: float, steps: int, step_size: float) -> Attack:
    import foolbox

    def run(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        wrapped = foolbox.PyTorchModel(model, bounds=(0, 1), device=images.device)
        attack = foolbox.attacks.LinfPGD(abs_stepsize=step_size, steps=steps)
        return attack.run(wrapped, images, labels, epsilon=eps)

    return run


def art_pgd(eps: float, steps: int, step_size: float) -> Attack:
    from art.attacks.evasion import ProjectedGradientDescentPyTorch
    from art.estimators.classification import PyTorchClassifier

    def run(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        with torch.no_grad():
            classes = model(images[:1]).shape[1]
        wrapped = PyTorchClassifier(
            model, nn.CrossEntropyLoss(), tuple(images.shape[1:]), classes, clip_values=(0.0, 1.0), device_type="cpu"
        )
        attack = ProjectedGradientDescentPyTorch(
            wrapped,
            eps=eps,
            eps_step=step_size,
            max_iter=steps,
            num_random_init=1,
            verbose=False,
            batch_size=len(images),
        )
        return torch.from_numpy(attack.generate(images.numpy(), labels.numpy()))

    return run


def pgd_peers(eps: float, steps: int, step_size: float) -> dict[str, Attack]:
    """Every library that can be imported here."""
    makers = {
        "torchattacks": torchattacks_pgd,
        "adv-lib": adv_lib_pgd,
        "foolbox": foolbox_pgd,
        "art": art_pgd,
    }
    found = {}
    for name, make in makers.items():
        with suppress(ImportError, RuntimeError):
            attack = make(eps, steps, step_size)
            attack(_Line(), torch.full((2, 1, 4, 4), 0.5), torch.zeros(2, dtype=torch.int64))
            found[name] = attack
    return found


class _Line(nn.Module):
    """Two classes by mean brightness: shows whether a library runs at all."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, images: Tensor) -> Tensor:
        mean = self.scale * images.flatten(1).mean(dim=1)
        return torch.stack([1 - mean, mean], dim=1)


def right(model: nn.Module, images: Tensor, labels: Tensor, batch_size: int = 250) -> Tensor:
    """Which images the float32 model gets right, (B,) bool."""
    with torch.no_grad():
        parts = [model(part).argmax(dim=1) for part in images.split(batch_size)]
    return torch.cat(parts) == labels


__all__ = ["STAGES", "Attack", "autoattack", "pgd_peers", "right"]
