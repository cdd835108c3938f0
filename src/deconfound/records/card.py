"""The card of exported weights: what they are, how they came to be, what they withstood, how to load them."""

from __future__ import annotations

from typing import Any, ClassVar

from deconfound.records.base import Interval, Machine, Record, Threat, VersionedRecord
from deconfound.records.runs import EvaluationRecord, Spread, TrainingRecord, Verdict

LICENSE = "to be chosen by whoever publishes these weights"


class ExportedFile(Record):
    """One file beside a card.

    Attributes:
        name: of the file.
        format: ``safetensors`` or ``onnx``.
        sha256, size: of its bytes.
        computes: what a forward pass of it is, in words.
        stands_in: whether it computes something else than the network that was judged.
        difference: of an ONNX graph, the largest difference of its logits from PyTorch's on ``compared`` images.
    """

    name: str
    format: str
    sha256: str
    size: int
    computes: str
    stands_in: bool = False
    difference: float | None = None
    compared: int = 0


class CardEvaluation(Record):
    """An evaluation without its examples: the two accuracies, and everything without which they say nothing."""

    file: str
    data: str
    data_digest: str
    threat: Threat
    suite: str
    budget: str
    n: int
    seed: int
    precision: str
    attacks: tuple[str, ...]
    clean_accuracy: float
    clean_interval: Interval
    robust_accuracy: float
    robust_interval: Interval
    verdict: Verdict
    spread: Spread | None = None
    cautions: tuple[str, ...] = ()

    @classmethod
    def of(cls, record: EvaluationRecord, file: str, cautions: tuple[str, ...] = ()) -> CardEvaluation:
        """The row of a record that lies in a file."""
        taken = {name: getattr(record, name) for name in cls.model_fields if name in EvaluationRecord.model_fields}
        attacks = tuple(attack.name for attack in record.attacks) or tuple(c.name for c in record.columns)
        return cls(**taken | {"attacks": attacks, "file": file, "cautions": cautions})


class ModelCard(VersionedRecord):
    """What is exported.

    Attributes:
        name: of the run.
        defence, about: the recipe, and a line on it.
        adversarial: whether it was trained on adversarial examples of ``training.recipe``'s threat model.
        random: whether its predictions are drawn.
        shape: (C, H, W) of the images.
        model_digest: SHA-256 over the tensors, as evaluation records have it.
        training: the run's record, without its history and without the place of the data.
        evaluations: of these very weights; none where nothing was evaluated.
        files: what was written.
        machine: where it was exported, and with which versions.
    """

    expected_kind: ClassVar[str] = "model-card"
    kind: str = "model-card"
    name: str
    defence: str
    about: str
    adversarial: bool
    random: bool
    shape: tuple[int, int, int]
    model_digest: str
    training: TrainingRecord
    evaluations: tuple[CardEvaluation, ...] = ()
    files: tuple[ExportedFile, ...]
    license: str = LICENSE
    machine: Machine
    notes: tuple[str, ...] = ()

    @property
    def threat(self) -> Threat:
        """The threat model of the recipe: trained against where ``adversarial``, and what judging takes by default."""
        return Threat(norm=self.training.recipe["norm"], eps=self.training.recipe["eps"])

    def setting(self, key: str) -> Any:
        """A setting of the resolved recipe."""
        return self.training.recipe.get(key)
