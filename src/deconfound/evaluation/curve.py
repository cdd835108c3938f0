"""Accuracy against the radius: attacked anew at every radius, and what a smaller one broke stays broken.

Shapes: n examples; images (n, C, H, W), verdicts (n,) bool.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from deconfound.core.protocols import Attack
from deconfound.core.threat import ThreatModel, parse_radius
from deconfound.evaluation.ledger import Ledger
from deconfound.evaluation.referee import AttackAt, Referee, Sample
from deconfound.functional.statistics import wilson_interval
from deconfound.records import CurvePoint

FACTORS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 4.0)
CURVE_EXAMPLES = 200


@dataclass(frozen=True)
class Curve:
    """Points in the order of their radii; ``standing[r]`` says which examples the attack at radius r by itself left.

    The points count what a smaller radius broke, since a larger ball holds it too; whether the attack finds that again
    is a check for gradient masking, which reads ``standing``.
    """

    points: tuple[CurvePoint, ...]
    standing: tuple[Tensor, ...]


def diameter(threat: ThreatModel, size: int) -> float:
    """The largest distance between two images of ``size`` pixels in the box."""
    return threat.width * {"linf": 1, "l2": math.sqrt(size), "l1": size}[threat.norm]


def curve_radii(threat: ThreatModel, size: int, given: Sequence[float | str] | None = None) -> tuple[float, ...]:
    """The radii to measure, ascending: eps times 0 to 4, capped at the box, and for L-infinity the whole box.

    >>> [round(radius, 2) for radius in curve_radii(ThreatModel("linf", 0.3), 784)]
    [0.0, 0.07, 0.15, 0.22, 0.3, 0.45, 0.6, 1.0]
    """
    limit = diameter(threat, size)
    if given is None:
        wanted = [threat.eps * factor for factor in FACTORS] + ([limit] if threat.norm == "linf" else [])
    else:
        wanted = [parse_radius(radius, "curve_radii") for radius in given]
    return tuple(sorted({min(radius, limit) for radius in wanted}))


def accuracy_curve(
    referee: Referee,
    sample: Sample,
    threat: ThreatModel,
    attack_at: AttackAt,
    radii: Sequence[float],
    ledger: Ledger,
) -> Curve:
    """Attack what is right on the clean image at every radius, and count what a smaller radius broke as broken.

    Args:
        referee: judges.
        sample: n examples; their streams are the same at every radius, so that the curve is paired.
        threat: norm and box.
        attack_at: makes the attack at a radius.
        radii: ascending.
        ledger: takes each radius as one piece of work.
    """
    attacks = [attack_at(threat.with_eps(radius)) for radius in radii]
    pieces = [
        (f"curve/{radius!r}", partial(_measure, referee, sample, attack))
        for radius, attack in zip(radii, attacks, strict=True)
    ]
    points, standing, left_so_far = [], [], sample.correct.cpu()
    for radius, attack, found in zip(radii, attacks, ledger.all(pieces), strict=True):
        standing.append(torch.tensor(found["standing"], dtype=torch.bool))
        left_so_far = left_so_far & standing[-1]
        left, n = int(left_so_far.sum()), len(left_so_far)
        interval = wilson_interval(left, n)
        points.append(CurvePoint(eps=radius, accuracy=left / n, interval=interval, n=n, attack=attack.name))
    return Curve(tuple(points), tuple(standing))


def _measure(referee: Referee, sample: Sample, attack: Attack) -> dict[str, list[bool]]:
    left = sample.correct if attack.threat.eps == 0 else referee.standing(attack, sample)
    return {"standing": left.tolist()}
