"""Records of disentanglement against robustness over the epochs of one training."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from deconfound.records.analysis import Accuracy, AttackedRecord, Correlations
from deconfound.records.base import Record


class KeptEpoch(Record):
    """A network as it was after so many epochs.

    Attributes:
        epoch: how many were done.
        digest: of its weights.
        natural, adversarial: accuracies of its own prediction, before and after the attack on it.
        leakage: largest absolute cosine between rows of W Sigma and rows of its style basis.
        held_out: correlations of style with content logits over the images of the analysis.
        chance: what independence leaves of them, as in ``StyleBasis``; None in records from before.
        recovered: R^2 of content read from style, as in ``StyleBasis``; None in records from before.
    """

    epoch: int
    digest: str
    natural: Accuracy
    adversarial: Accuracy
    leakage: float
    held_out: Correlations
    chance: Correlations | None = None
    recovered: float | None = None


class RankCorrelation(Record):
    """Spearman's rank correlation of a measure of leakage with accuracy under the attack, over the kept epochs.

    Attributes:
        measure: of leakage.
        rho: below 0 where epochs that leak less withstand more; NaN where either is constant.
        p_value: two-sided.
        exact: whether it is over all orders; Student's t otherwise.
        within_chance: epochs whose measure chance alone would leave; they tie, as the lowest. 0 where the measure has
            no chance, and in records from before.
    """

    measure: str
    rho: float
    p_value: float
    exact: bool
    within_chance: int = 0


class CheckpointsRecord(AttackedRecord):
    """What style keeps of content, and what the network withstands, epoch by epoch.

    Epochs of one training follow each other, so they are no independent draws: the p-values are those of the ranks
    alone.

    Attributes:
        basis: that style was trained on, ``exact`` or ``deflation``.
        points: one for each kept epoch, in order.
        correlations: one for each measure of leakage.
    """

    expected_kind: ClassVar[str] = "checkpoints-analysis"
    kind: str = "checkpoints-analysis"
    basis: str
    points: Annotated[tuple[KeptEpoch, ...], Field(min_length=1)]
    correlations: tuple[RankCorrelation, ...]


__all__ = ["CheckpointsRecord", "KeptEpoch", "RankCorrelation"]
