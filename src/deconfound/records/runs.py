"""Records of trainings, evaluations and comparisons."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar

from pydantic import Field

from deconfound.records.base import Interval, Machine, Record, Threat, VersionedRecord
from deconfound.records.examples import DIGITS


class Check(Record):
    """One test of trust: its measured figure against its threshold; ``passed`` is None where it was not run."""

    name: str
    measured: float | str | None
    threshold: float | str | None
    passed: bool | None
    note: str = ""


class Verdict(Record):
    """Whether the robust accuracy can be believed, and why not."""

    reliable: bool
    reasons: tuple[str, ...] = ()
    checks: tuple[Check, ...] = ()


class AttackResult(Record):
    """One attack of a suite: its settings, how many examples it was given, how many were left, and what it cost.

    ``forwards`` and ``backwards`` count images, not calls.
    """

    name: str
    settings: dict[str, Any]
    attacked: int
    survivors: int
    seconds: float
    forwards: int
    backwards: int


class Outcome(Record):
    """One example: its index in the data set, clean prediction, the first attack that broke it, and the distance.

    ``broken_by`` is ``"clean"`` where the clean image is misclassified, None where nothing broke it; ``adversarial``
    is the prediction on the adversarial image.
    """

    index: int
    label: int
    prediction: int
    broken_by: str | None
    distance: float | None
    adversarial: int | None = None


class AuditResult(Record):
    """The audit of a suite that runs its slow attacks on some of the survivors.

    Attributes:
        attacks: names of the slow attacks.
        survivors: of the attacks that ran on everything.
        nearest: how many the slow attacks were given because a fast one had brought them nearest to falling.
        nearest_fell: how many of those fell.
        sampled: how many of the rest the slow attacks were given, drawn at random.
        fell: how many of the sampled fell; with any, the slow attacks went on to all survivors.
        complete: whether the slow attacks have seen every survivor.
        bound: with 95 % confidence the slow attacks could have broken at most this share of all examples besides.
    """

    attacks: tuple[str, ...] = ()
    survivors: int
    nearest: int = 0
    nearest_fell: int = 0
    sampled: int
    fell: int
    complete: bool
    bound: float


class ColumnResult(Record):
    """An attack that ran by itself on all examples, as one column of a table.

    ``group`` is ``column`` (of a paper's table), ``alone`` (an attack of the suite, run apart from the others),
    ``transfer`` (crafted on another classifier), ``norm`` (another norm than the evaluation's), ``beyond`` (not bounded
    by a norm) or ``union`` (what is left after all of them). ``stands`` says which examples are left: a bit for each
    outcome of the evaluation in their order, packed by ``packed_bits``; empty in records of before there was this field
    and in those of studies, which keep what the union left beside it.
    """

    name: str
    group: str
    threat: str
    settings: dict[str, Any] = {}
    n: int
    accuracy: float
    interval: Interval
    stands: Annotated[str, Field(pattern=DIGITS)] = ""


WITHIN = ("alone", "transfer", "union")
"""Groups of attackers that stay inside the threat model, so that what they break counts for the robust accuracy."""


def union_beyond(columns: Sequence[ColumnResult]) -> ColumnResult | None:
    """What attackers by themselves left together, where some of them go beyond the threat model.

    Args:
        columns: of a judgement.
    """
    union = next((column for column in columns if column.group == "union"), None)
    return None if all(column.group in WITHIN for column in columns) else union


class Spread(Record):
    """A random judge's accuracies, one for each of its seeds, on the same images, and their standard deviations."""

    judge: dict[str, Any]
    clean: tuple[float, ...]
    robust: tuple[float, ...]
    clean_deviation: float
    robust_deviation: float


class CurvePoint(Record):
    """Accuracy at one radius under one attack, on n examples."""

    eps: float
    accuracy: float
    interval: Interval
    n: int
    attack: str


class Picture(Record):
    """One example for the gallery: base64 PNGs of clean image, perturbation (x10 around grey) and adversarial image."""

    index: int
    label: int
    prediction: int
    adversarial: int
    attack: str
    distance: float
    clean_png: str
    perturbation_png: str
    adversarial_png: str


class StageUse(Record):
    """A finished training that another was built on: its folder (as it was given), recipe and weights."""

    run: str
    recipe: str
    recipe_digest: str
    model_digest: str
    epochs: int
    seed: int


class TrainingRecord(VersionedRecord):
    """How a model came to be."""

    expected_kind: ClassVar[str] = "training"
    kind: str = "training"
    recipe: dict[str, Any]
    recipe_digest: str
    data: str
    data_digest: str
    class_names: tuple[str, ...]
    seed: int
    epochs_run: int
    selected_epoch: int | None
    selection: str
    validation: dict[str, float] = {}
    parameters: int
    seconds: float
    images_per_second: float
    resumed: int = 0
    warnings: tuple[str, ...] = ()
    history: tuple[dict[str, float], ...] = ()
    stages: dict[str, StageUse] = {}
    machine: Machine


class EvaluationRecord(VersionedRecord):
    """What a model withstood. Accuracies are shares in [0, 1]; intervals are 95 % Wilson intervals."""

    expected_kind: ClassVar[str] = "evaluation"
    kind: str = "evaluation"
    model: str
    model_digest: str
    defence: str = ""
    data: str
    data_digest: str
    class_names: tuple[str, ...]
    threat: Threat
    suite: str
    budget: str = "normal"
    n: int
    seed: int
    clean_accuracy: float
    clean_interval: Interval
    robust_accuracy: float
    robust_interval: Interval
    verdict: Verdict
    attacks: tuple[AttackResult, ...]
    outcomes: tuple[Outcome, ...]
    audit: AuditResult | None = None
    columns: tuple[ColumnResult, ...] = ()
    spread: Spread | None = None
    curve: tuple[CurvePoint, ...] = ()
    gallery: tuple[Picture, ...] = ()
    forwards: int
    backwards: int
    seconds: float
    cpu_seconds: float
    precision: str = "32-true"
    surrogate: str = "the model itself"
    sources: tuple[str, ...] = ()
    machine: Machine
    training: dict[str, Any] = {}
    notes: tuple[str, ...] = ()


class ComparedEvaluation(Record):
    """One row of a comparison: an evaluation without its examples, under a label that no other row has."""

    label: str
    file: str
    model: str
    model_digest: str
    defence: str = ""
    threat: Threat
    suite: str
    budget: str
    n: int
    seed: int
    precision: str
    clean_accuracy: float
    clean_interval: Interval
    robust_accuracy: float
    robust_interval: Interval
    verdict: Verdict


class PairedDifference(Record):
    """One accuracy of two models on the same examples.

    ``only_first`` and ``only_second`` count examples that one of the two has right and the other wrong; ``difference``
    is the first's share of right ones minus the second's, with Tango's 95 % score interval; ``p_value`` is McNemar's,
    exact and two-sided, ``adjusted_p_value`` the same adjusted for the number of pairs, None where that was not asked.
    """

    only_first: int
    only_second: int
    difference: float
    interval: Interval
    p_value: float
    adjusted_p_value: float | None = None


class PairedTest(Record):
    """Two rows of a comparison, by label, on the ``n`` examples that both saw, or why they are not tested."""

    first: str
    second: str
    n: int = 0
    robust: PairedDifference | None = None
    clean: PairedDifference | None = None
    not_compared: str = ""


class Comparison(VersionedRecord):
    """Several evaluations on one data set, side by side and pair by pair."""

    expected_kind: ClassVar[str] = "comparison"
    kind: str = "comparison"
    data: str
    data_digest: str
    evaluations: tuple[ComparedEvaluation, ...]
    pairs: tuple[PairedTest, ...]
    adjust: str = "holm"
    warnings: tuple[str, ...] = ()
