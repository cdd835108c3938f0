"""Records of instrument diagnostics: is the instrument relevant, is it valid, and what do three estimators say."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from deconfound.records.analysis import AttackedRecord
from deconfound.records.base import Interval, Record

WEAK_BELOW = 10.0
"""First-stage F (Staiger and Stock 1997)."""
ALPHA = 0.05
# Of a share of variance that is all of it.
ROUNDING = 1e-9


class Estimate(Record):
    """A coefficient with its 95 % interval, robust to heteroskedasticity."""

    value: float
    interval: Interval


class Effect(Record):
    """The effect of one treatment on the outcome, by three estimators.

    Attributes:
        name: of the treatment.
        ols: least squares, which a confounder biases.
        tsls: two-stage least squares.
        gmm: two-step generalised method of moments.
    """

    name: str
    ols: Estimate
    tsls: Estimate
    gmm: Estimate


class FirstStage(Record):
    """Relevance: one treatment regressed on all instruments.

    Attributes:
        name: of the treatment.
        f: F of the excluded instruments, homoskedastic.
        p_value: of it.
        partial_r2: share of what the controls leave that the instruments explain.
        weak: whether F is below 10.
    """

    name: str
    f: float
    p_value: float
    partial_r2: float
    weak: bool


class Statistic(Record):
    """A test: its statistic, the p-value, and the distribution under the null."""

    statistic: float
    p_value: float
    distribution: str

    @property
    def rejects(self) -> bool:
        """At 5 %."""
        return self.p_value < ALPHA


class InstrumentsRecord(AttackedRecord):
    """Instrument diagnostics of a network cut in two, in the terms of adversarial instrumental variables.

    Instrument Z = F_adv - F_nat, treatment T = F_adv, outcome the logit of the true class on the adversarial image.
    Z and T enter by principal components of unit variance. What the components of T leave out stays in the error, and Z
    moves it too: where it matters to the outcome, endogeneity and over-identification are rejected of a perfect
    instrument as well.

    Attributes:
        layer: of the cut; empty for the network's own.
        dimension: of the features there.
        treatment_share, instrument_share: of the variance of T and Z that the components hold.
        instruments: number of components of Z.
        components_r2, features_r2: share of the outcome's variance that the components of T predict, and all of T, on
            images left out of the fit (ridge); None in records without.
        first_stages: one for each component of T.
        joint_f: Cragg and Donald's F of all treatments together; the largest of several first-stage F hide that one
            instrument may carry them all.
        weak: whether any F, the joint one included, is below 10.
        wu_hausman: null: the treatments are exogenous, so least squares is consistent; assumes errors of one variance.
        wooldridge: the same null by the score test that allows for heteroskedasticity; None in records without.
        sargan, hansen: null: all instruments are valid; Hansen's J allows for heteroskedasticity.
        effects: of one standard deviation of each component of T, in logits.
    """

    expected_kind: ClassVar[str] = "instruments-analysis"
    kind: str = "instruments-analysis"
    layer: str = ""
    dimension: int
    treatment_share: float
    instrument_share: float
    instruments: int
    components_r2: float | None = None
    features_r2: float | None = None
    first_stages: Annotated[tuple[FirstStage, ...], Field(min_length=1)]
    joint_f: float
    weak: bool
    wu_hausman: Statistic
    wooldridge: Statistic | None = None
    sargan: Statistic
    hansen: Statistic
    effects: Annotated[tuple[Effect, ...], Field(min_length=1)]

    @property
    def truncated(self) -> bool:
        """Whether components of T were left out."""
        return self.treatment_share < 1 - ROUNDING

    @property
    def endogeneity(self) -> Statistic:
        """The test of exogeneity that counts: the robust one where there is one."""
        return self.wu_hausman if self.wooldridge is None else self.wooldridge


__all__ = ["ALPHA", "WEAK_BELOW", "Effect", "Estimate", "FirstStage", "InstrumentsRecord", "Statistic"]
