"""Records of certification: which radii the vote of a classifier under noise is certain of."""

from __future__ import annotations

from typing import Any, ClassVar

from deconfound.records.base import Interval, Machine, Record, VersionedRecord


class CertifiedPoint(Record):
    """One example: its class, what is certain to be predicted (-1: it abstains), within which L2 radius."""

    index: int
    label: int
    prediction: int
    radius: float


class CertifiedShare(Record):
    """Share of examples that are certainly right at an L2 radius, with its 95 % Wilson interval."""

    radius: float
    accuracy: float
    interval: Interval


class CertificationRecord(VersionedRecord):
    """What the smoothed classifier is certain of (Cohen et al. 2019).

    Attributes:
        sigma: of the noise, in [0, 1] pixels.
        selection_draws, draws: n0 that choose the class, n that bound its share.
        alpha: each certificate is wrong with probability at most alpha.
        largest_radius: what every one of the n draws agreeing would certify; no radius is above it.
        n: examples.
        certified: right and certain at each radius; at 0, right and not abstaining.
        abstained: examples without a prediction.
        mean_radius: over all examples, 0 where wrong or abstaining (average certified radius).
        points: one for each example.
        forwards: images that passed the network.
    """

    expected_kind: ClassVar[str] = "certification"
    kind: str = "certification"
    model: str
    model_digest: str
    defence: str = ""
    data: str
    data_digest: str
    class_names: tuple[str, ...]
    sigma: float
    selection_draws: int
    draws: int
    alpha: float
    largest_radius: float
    n: int
    seed: int
    certified: tuple[CertifiedShare, ...]
    abstained: int
    mean_radius: float
    points: tuple[CertifiedPoint, ...]
    forwards: int
    seconds: float
    precision: str = "32-true"
    machine: Machine
    training: dict[str, Any] = {}
    notes: tuple[str, ...] = ()
