"""Records of feature pictures: images whose features match others', and what a prediction rests on, pixel by pixel."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import Field

from deconfound.records.analysis import AttackedRecord
from deconfound.records.base import Record


class FeaturePicture(Record):
    """An image that was optimised until its features match given ones; a base64 PNG.

    Attributes:
        kind: of the features, such as ``natural`` or ``adversarial``.
        cosine: of its features and the given ones, 1 where they agree in direction.
        distance: |f(x) - f*| / |f*|, 0 where they agree.
        prediction: class of the picture.
        decoded: class that the head reads from the given features.
    """

    kind: str
    png: str
    cosine: float
    distance: float
    prediction: int
    decoded: int


class Saliency(Record):
    """Integrated gradients of the true logit from a black image; blue speaks for the class, orange against it.

    Attributes:
        png: sum over channels, base64.
        difference: logit of the image minus that of the black one.
        error: sum of the attributions minus that difference; 0 for exact integration (completeness).
    """

    png: str
    difference: float
    error: float


class PicturedImage(Record):
    """An image, its adversarial version, the pictures of its features, and the saliency of both versions."""

    index: int
    label: int
    png: str
    prediction: int
    adversarial_png: str
    adversarial_prediction: int
    features: tuple[FeaturePicture, ...]
    saliency: Saliency | None = None
    adversarial_saliency: Saliency | None = None


class PicturesRecord(AttackedRecord):
    """Pictures of features and of gradients.

    Attributes:
        layer: of the cut; empty for the network's own.
        dimension: of the features there.
        optimisation: settings of the search for pictures.
        integration: settings of integrated gradients; empty where they were left out.
        images: those that were pictured.
    """

    expected_kind: ClassVar[str] = "pictures-analysis"
    kind: str = "pictures-analysis"
    layer: str = ""
    dimension: int
    optimisation: dict[str, Any]
    integration: dict[str, Any] = {}
    images: Annotated[tuple[PicturedImage, ...], Field(min_length=1)]


__all__ = ["FeaturePicture", "PicturedImage", "PicturesRecord", "Saliency"]
