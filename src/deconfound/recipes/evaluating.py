"""Judging any classifier on any images: what ``deconfound.evaluate`` does, and how the command judges."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from deconfound.attacks import FGSM, PGD, suite
from deconfound.core.guards import evaluating
from deconfound.core.protocols import Attack, ImageSource, Journal, Monitor
from deconfound.core.threat import ThreatModel
from deconfound.errors import require
from deconfound.evaluation import Probes, Provenance
from deconfound.evaluation import evaluate as judge_model
from deconfound.recipes import machine
from deconfound.records import EvaluationRecord
from deconfound.store.weights import digest_tensors

BUDGETS = ("demo", "normal", "full")
PROBE_STEPS = 20


def _probe(threat: ThreatModel) -> Attack:
    return PGD(threat, steps=PROBE_STEPS)


@dataclass(frozen=True, kw_only=True)
class Judging:
    """How to judge: suite, budget of stochastic judges, seed, images at once, and what else to measure."""

    suite: str = "quick"
    budget: str = "normal"
    seed: int = 0
    batch_size: int = 256
    checks: bool = True
    curve: bool = True
    gallery: int = 8

    def __post_init__(self) -> None:
        require(self.budget in BUDGETS, "budget", self.budget, f"one of {', '.join(BUDGETS)}")
        require(0 <= self.seed < 2**63, "seed", self.seed, "a whole number of at least 0, below 2^63")
        require(self.batch_size >= 1, "batch_size", self.batch_size, "a whole number of at least 1")

    def run(
        self,
        model: nn.Module,
        images: Tensor | ImageSource,
        labels: Tensor | None,
        index: Tensor | None,
        threat: ThreatModel,
        provenance: Provenance,
        journal: Journal | None = None,
        monitor: Monitor | None = None,
    ) -> EvaluationRecord:
        """Judge a model."""
        return judge_model(
            model,
            images,
            labels,
            index=index,
            threat=threat,
            attacks=suite(self.suite, threat),
            suite=self.suite,
            seed=self.seed,
            batch_size=self.batch_size,
            probes=Probes(single_step=FGSM, iterative=_probe) if self.checks else None,
            curve_attack=_probe if self.curve else None,
            gallery=self.gallery,
            provenance=provenance,
            journal=journal,
            monitor=monitor,
        )


def evaluate(
    model: nn.Module,
    images: Tensor | ImageSource,
    labels: Tensor | None = None,
    *,
    threat: ThreatModel,
    name: str = "",
    defence: str = "",
    data: str = "",
    class_names: Sequence[str] | None = None,
    index: Tensor | None = None,
    monitor: Monitor | None = None,
    **judging: object,
) -> EvaluationRecord:
    """Judge any classifier on any images.

    Args:
        model: images (B, C, H, W) in [0, 1] -> logits (B, K), normalisation inside; its mode is put back.
        images: (N, C, H, W) float in [0, 1], or an image source.
        labels: (N,) int64; None with a source.
        threat: what the attacks may do.
        name, defence, data, class_names: for the record.
        index: the examples' places in their data set, which key the random numbers; 0..N-1 by default.
        monitor: shows progress.
        judging: fields of ``Judging``: suite, budget, seed, batch_size, checks, curve, gallery.

    Returns:
        A record with ``robust_accuracy``, ``clean_accuracy``, intervals, ``verdict`` and ``outcomes``.

    Raises:
        InputError: images outside [0, 1], labels outside 0..K-1, unknown suite, and the like.
    """
    settings = Judging(**judging)  # type: ignore[arg-type]
    require(isinstance(threat, ThreatModel), "threat", threat, 'a ThreatModel, such as ThreatModel("linf", "8/255")')
    state = dict(model.state_dict()) if isinstance(model, nn.Module) else {}
    device = next((tensor.device for tensor in state.values()), torch.device("cpu"))
    names = _class_names(model, images, device)
    if class_names is not None:
        rule = f"a name for each of the {len(names)} classes"
        require(not names or len(class_names) == len(names), "class_names", list(class_names), rule)
        names = tuple(class_names)
    provenance = Provenance(
        model=name or type(model).__name__,
        model_digest=digest_tensors(state),
        defence=defence,
        data=data or (images.name if not isinstance(images, Tensor) else "tensors"),
        data_digest=_digest(images, labels),
        class_names=names,
        machine=machine.describe(device),
        budget=settings.budget,
        precision="64-true" if any(t.dtype == torch.float64 for t in state.values()) else "32-true",
    )
    return settings.run(model, images, labels, index, threat, provenance, monitor=monitor)


def _digest(images: Tensor | ImageSource, labels: Tensor | None) -> str:
    if not isinstance(images, Tensor):
        return images.digest()
    named = {"images": images} | ({} if labels is None else {"labels": labels})
    return digest_tensors(named)


def _class_names(model: nn.Module, images: Tensor | ImageSource, device: torch.device) -> tuple[str, ...]:
    """The source's, or 0..K-1; none where the model does not take the images, which judging refuses with a reason."""
    if not isinstance(images, Tensor):
        return images.class_names
    try:
        with evaluating(model), torch.no_grad():
            logits = model(images[:1].to(device))
    except (RuntimeError, ValueError):
        return ()
    return tuple(str(k) for k in range(logits.shape[-1]))
