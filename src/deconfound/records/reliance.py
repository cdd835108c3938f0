"""Records of causal reliance: what a classifier answers when a variable of its images is set."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import Field

from deconfound.records.analysis import Accuracy, AnalysisRecord
from deconfound.records.base import Interval, Record


class Share(Record):
    """A share in [0, 1] with its 95 % Wilson interval."""

    share: float
    interval: Interval


class Intervention(Record):
    """The same images with a variable set, do(variable = value).

    Attributes:
        variable, value: what was set.
        accuracy: interventional; labels follow where they are an effect of the variable.
        gap: observational minus interventional accuracy.
        gap_interval: its 95 % interval, by Tango for pairs: both are of the same images.
        changed: share of predictions that are other ones than those on the images as observed, of the images with a
            prediction in both arms; NaN where there is none.
        compared: how many images these are; None in records without, where abstaining counted as a prediction.
        bounds: share of all images, had those without a prediction in an arm changed none or all of them.
        abstained: share of the images of this arm without a prediction, which counts as an error.
    """

    variable: str
    value: str
    accuracy: Accuracy
    gap: float
    gap_interval: Interval
    changed: Share
    compared: int | None = None
    bounds: Interval | None = None
    abstained: Share | None = None

    @property
    def name(self) -> str:
        """As in the literature: ``do(confounder = other)``."""
        return f"do({self.variable} = {self.value})"


class ReliancePoint(Record):
    """What was found on images whose confounder agrees with the class with probability rho.

    Attributes:
        rho: of the test images; None where the data do not say.
        own: whether these are the data of the analysis as they are, not a variation of them.
        observed: accuracy without an intervention.
        abstained: share of these images without a prediction; None in records without.
        interventions: one for each do-operation that the data have.
    """

    rho: float | None
    own: bool
    observed: Accuracy
    interventions: Annotated[tuple[Intervention, ...], Field(min_length=1)]
    abstained: Share | None = None

    def find(self, variable: str, value: str) -> Intervention | None:
        """The intervention of that name, if there was one."""
        return next((one for one in self.interventions if (one.variable, one.value) == (variable, value)), None)

    @property
    def reliance(self) -> Share | None:
        """Share of predictions that change under do(confounder = other), where there is one before and after."""
        found = self.find("confounder", "other")
        return None if found is None else found.changed


class RelianceRecord(AnalysisRecord):
    """How much a classifier leans on a confounder whose causal role is known.

    Attributes:
        points: one for each rho of the test images; the data's own among them.
        mark: what carries the confounder and how much of the image it takes; empty where the data do not say.
        judge: how a random classifier was asked, nothing for a deterministic one.
        unsteady: share of predictions that change when only the random numbers do, of images with both; None for a
            deterministic one.
    """

    expected_kind: ClassVar[str] = "reliance-analysis"
    kind: str = "reliance-analysis"
    points: Annotated[tuple[ReliancePoint, ...], Field(min_length=1)]
    mark: str = ""
    judge: dict[str, Any] = {}
    unsteady: Share | None = None

    @property
    def own(self) -> ReliancePoint:
        """On the data as they are; the first where none says so."""
        return next((point for point in self.points if point.own), self.points[0])


__all__ = ["Intervention", "ReliancePoint", "RelianceRecord", "Share"]
