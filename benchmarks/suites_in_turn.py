"""Suites on tensors, stage by stage: who is left standing after each attack."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from deconfound.attacks import APGD, FAB, PGD, Square
from deconfound.attacks.losses import margin
from deconfound.attacks.suites import Suite
from deconfound.core.streams import Streams
from deconfound.core.threat import ThreatModel
from deconfound.core.types import Audit
from deconfound.data import load
from deconfound.evaluation import Provenance
from deconfound.evaluation.judging import evaluate
from deconfound.models.fast import FastSurrogate, fast_surrogate
from deconfound.recipes.machine import describe
from deconfound.records import EvaluationRecord
from peers import right

Stages = dict[str, list[int]]
"""Positions left standing after each stage."""


def first(folder: str, count: int) -> tuple[Tensor, Tensor]:
    test = load(folder, parts=("test",)).test
    (batch,) = test.batches([torch.arange(count)])
    return batch.images, batch.labels


def shortened(threat: ThreatModel, share: float) -> list:
    """The standard suite with every budget times ``share``."""
    steps = max(1, round(100 * share))
    fab, square = FAB(threat, steps=steps, targets=9), Square(threat, queries=max(1, round(5000 * share)))
    return [APGD(threat, steps=steps), APGD(threat, steps=steps, targets=9), fab, square]


def in_turn(attacks: list, climbed: nn.Module, judge: nn.Module, images: Tensor, labels: Tensor) -> Stages:
    """Each attack on what the earlier ones left; positions that are left after each."""
    left = right(judge, images, labels).nonzero().flatten()
    after = {"clean": left.tolist()}
    for attack in attacks:
        streams = Streams(0, left).fold(attack.name)
        found = attack(climbed, images[left], labels[left], streams, judge=judge)
        left = left[right(judge, found, labels[left])]
        after[attack.name] = left.tolist()
    return after


def audited(attacks: list, climbed: nn.Module, judge: nn.Module, images: Tensor, labels: Tensor) -> EvaluationRecord:
    """The suite ``fast`` with the budgets of these attacks, the audit on a tenth of the survivors."""
    threat = attacks[0].threat
    steps = max(1, attacks[0].steps // 5)  # as shortened as the others
    nearest = PGD(threat, steps=steps, loss=margin, keep="last", name="nearest")
    audit = Audit(attacks=attacks[2:], least=1, share=0.1, ranking=nearest)
    return by_suite(Suite(name="fast", attacks=tuple(attacks[:2]), audit=audit), climbed, judge, images, labels)


def by_suite(made: Suite, climbed: nn.Module, judge: nn.Module, images: Tensor, labels: Tensor) -> EvaluationRecord:
    """What an evaluation with this suite says, without masking checks and pictures."""
    names = {"model": "", "model_digest": "", "data": "", "data_digest": "", "class_names": ()}
    return evaluate(
        judge,
        images,
        labels,
        threat=made.attacks[0].threat,
        attacks=made.attacks,
        audit=made.audit,
        surrogate=climbed,
        suite=made.name,
        provenance=Provenance(**names, machine=describe()),
        gallery=0,
    )


def both(model: nn.Module, images: Tensor, labels: Tensor) -> dict[str, FastSurrogate]:
    return {name: fast_surrogate(model, images, labels, precision=name) for name in ("auto", "32")}
