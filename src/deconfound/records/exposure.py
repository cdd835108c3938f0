"""Records of instrument exposure: what each look of a network at an image sees, and how its features vary with it."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from deconfound.records.analysis import Accuracy, AnalysisRecord
from deconfound.records.base import Interval, Record


class Mean(Record):
    """A mean over images with its 95 % interval, normal; NaN where it is not defined for any image."""

    value: float
    interval: Interval


class Centre(Record):
    """One of the looks.

    Attributes:
        exposure: mean share of the image that it sees.
        accuracy: of its logits alone.
    """

    exposure: float
    accuracy: Accuracy


class View(Record):
    """What one look sees of an image: a base64 PNG, the exposure, and the class that it alone predicts (-1: none)."""

    png: str
    exposure: float
    prediction: int


class Looks(Record):
    """An image and all looks at it; ``prediction`` is that of all together."""

    index: int
    label: int
    png: str
    prediction: int
    views: tuple[View, ...]


class ExposureRecord(AnalysisRecord):
    """How equal the features per exposure are, which is what the instrument's condition f_l / z_l = const asks.

    Attributes:
        policy: how the centres are chosen: ``grid``, ``cells`` or ``random``; with the last two a look has no place of
            its own.
        consistency: weight of the consistency loss at the end of training; 0 where there was none.
        together: accuracy of the prediction by all looks, (1/V) sum_l o_l / z_l.
        centres: one for each look.
        spread: of features per exposure r_l = f_l / z_l over the looks at one image, relative to their mean,
            sqrt(mean_l |r_l - rbar|^2) / |rbar|; a number without a scale, comparable between networks.
        raw_spread: the same of the features f_l themselves, without the division.
        looks: images with their views.
    """

    expected_kind: ClassVar[str] = "exposure-analysis"
    kind: str = "exposure-analysis"
    policy: str
    consistency: float
    together: Accuracy
    centres: Annotated[tuple[Centre, ...], Field(min_length=1)]
    spread: Mean
    raw_spread: Mean
    looks: tuple[Looks, ...] = ()


__all__ = ["Centre", "ExposureRecord", "Looks", "Mean", "View"]
