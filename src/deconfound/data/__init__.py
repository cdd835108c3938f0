"""Labelled images: where they come from, how they are held, and how they are changed at random."""

from __future__ import annotations

from typing import TYPE_CHECKING

from deconfound.lazy import exporter

if TYPE_CHECKING:
    from deconfound.data.augment import Compose, RandomCrop, RandomFlip, RandomRotation
    from deconfound.data.confounded import Confounded, Confounding
    from deconfound.data.families import FAMILIES, family_of
    from deconfound.data.memory import MemoryImages
    from deconfound.data.sources import DataSet, load
    from deconfound.data.splits import carve_validation
    from deconfound.data.streamed import StreamedImages
    from deconfound.data.synthetic import Shapes, ShapesSettings

_HOME = {
    "Compose": "augment",
    "Confounded": "confounded",
    "Confounding": "confounded",
    "DataSet": "sources",
    "FAMILIES": "families",
    "MemoryImages": "memory",
    "RandomCrop": "augment",
    "RandomFlip": "augment",
    "RandomRotation": "augment",
    "Shapes": "synthetic",
    "ShapesSettings": "synthetic",
    "StreamedImages": "streamed",
    "carve_validation": "splits",
    "family_of": "families",
    "load": "sources",
}

__all__ = [
    "Compose",
    "Confounded",
    "Confounding",
    "DataSet",
    "FAMILIES",
    "MemoryImages",
    "RandomCrop",
    "RandomFlip",
    "RandomRotation",
    "Shapes",
    "ShapesSettings",
    "StreamedImages",
    "carve_validation",
    "family_of",
    "load",
]


__getattr__ = exporter(__name__, _HOME)
