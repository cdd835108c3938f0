"""Records of causal analyses: what was looked at in a run, and what was found."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import Field

from deconfound.records.base import Interval, Machine, Record, Threat, VersionedRecord


class Attacker(Record):
    """The attack behind the adversarial images of an analysis, and its settings."""

    name: str
    settings: dict[str, Any]


class AnalysisRecord(VersionedRecord):
    """What every analysis says of its model, data and seed; each kind adds what it found."""

    model: str
    model_digest: str
    defence: str = ""
    data: str
    data_digest: str
    class_names: tuple[str, ...]
    n: int
    seed: int
    seconds: float
    precision: str = "32-true"
    machine: Machine
    training: dict[str, Any] = {}
    notes: tuple[str, ...] = ()


class AttackedRecord(AnalysisRecord):
    """An analysis of natural images and of their adversarial versions: also says which attack made these."""

    threat: Threat
    attack: Attacker


class Accuracy(Record):
    """A share of right answers in [0, 1] with its 95 % Wilson interval."""

    share: float
    interval: Interval


class Reader(Record):
    """A classifier asked about natural images and about their adversarial versions.

    Attributes:
        natural, adversarial: its accuracies.
        entropy: mean entropy of p, its probabilities on the natural images, in nats.
        shift: mean soft cross entropy -sum p log q, where q are its probabilities on the adversarial images; equal to
            ``entropy`` where nothing moves.
    """

    natural: Accuracy
    adversarial: Accuracy
    entropy: float
    shift: float

    @property
    def divergence(self) -> float:
        """Mean KL(p || q) = shift - entropy: what the attack moved, 0 where it moved nothing."""
        return self.shift - self.entropy


# Two ways to a correlation of 1 differ by no more.
ROUNDING = 1e-9


class Correlations(Record):
    """How style correlates with content, in absolute size.

    Attributes:
        largest, mean: over every style coordinate with every content logit. Many that are small can together be all.
        canonical_largest: the canonical correlation, that of the best pair of combinations of either side.
        canonical_mean_square: mean over the directions of content of the squared canonical correlation: the share of
            content that a linear reader of style knows. Both are None in records from before they were computed.
    """

    largest: float
    mean: float
    canonical_largest: float | None = None
    canonical_mean_square: float | None = None

    def above(self, chance: Correlations | None, name: str) -> bool | None:
        """Whether one of these figures is above what chance leaves; None where either is not known.

        >>> Correlations(largest=0.3, mean=0.1).above(Correlations(largest=0.2, mean=0.1), "mean")
        False
        """
        value, bound = getattr(self, name), getattr(chance, name, None)
        return None if value is None or bound is None else bool(value > bound + ROUNDING)


class StyleBasis(Record):
    """What one style basis B of a run lets through.

    Attributes:
        name: ``exact`` or ``deflation``.
        trained: whether the run's style predictor g was trained on this basis.
        removed: directions of content, the row space of W Sigma, that the basis leaves out, counted by rank at 1e-5.
        leakage: largest absolute cosine between rows of W Sigma and rows of B, as the metrics of training have it; no
            measure of how much leaks, which the canonical correlations are.
        stored: correlations under the run's own running covariance Sigma.
        held_out: correlations over the images of the analysis.
        chance: what each of ``held_out`` stays within with probability 95 % if style and content are independent, by
            shuffles of the images; None in records from before.
        recovered: R^2 over these images of the content logits, read from style by the best linear reader under Sigma;
            None where content does not vary, and in records from before.
        same_class: share of the images whose nearest neighbour in style space is of their class.
        predictor: g on this basis, without the correction that needs the label.
    """

    name: str
    trained: bool
    removed: int
    leakage: float
    stored: Correlations
    held_out: Correlations
    chance: Correlations | None = None
    recovered: float | None = None
    same_class: float
    predictor: Reader


class Neighbour(Record):
    """An image near to another one in style space; the picture is a base64 PNG."""

    index: int
    label: int
    distance: float
    png: str


class StyleQuery(Record):
    """An image, and the images nearest to it in the style space of the trained basis, nearest first."""

    index: int
    label: int
    png: str
    neighbours: tuple[Neighbour, ...]


class StyleRecord(AttackedRecord):
    """Content and style of a run: what each says of the label, before and after an attack.

    Attributes:
        dimension: d of the features.
        content: the network's own logits z.
        bases: the exact and the deflated style basis, from the same covariance, anchors and last layer.
        queries: images with their nearest neighbours in style space.
    """

    expected_kind: ClassVar[str] = "style-analysis"
    kind: str = "style-analysis"
    dimension: int
    content: Reader
    bases: Annotated[tuple[StyleBasis, ...], Field(min_length=1)]
    queries: tuple[StyleQuery, ...] = ()

    @property
    def trained(self) -> StyleBasis:
        """The basis that the run was trained with; the first where none says so."""
        return next((basis for basis in self.bases if basis.trained), self.bases[0])
