"""Labelled images: where they come from, how they are held, and how they are changed at random."""

from __future__ import annotations

from typing import TYPE_CHECKING

from deconfound.lazy import exporter

if TYPE_CHECKING:
    from deconfound.data.augment import Compose, RandomCrop, RandomFlip, RandomRotation
    from deconfound.data.families import FAMILIES, family_of
    from deconfound.data.memory import MemoryImages
    from deconfound.data.sources import DataSet, load
    from deconfound.data.splits import carve_validation
    from deconfound.data.streamed import StreamedImages

_HOME = {
    "Compose": "augment",
    "DataSet": "sources",
    "FAMILIES": "families",
    "MemoryImages": "memory",
    "RandomCrop": "augment",
    "RandomFlip": "augment",
    "RandomRotation": "augment",
    "StreamedImages": "streamed",
    "carve_validation": "splits",
    "family_of": "families",
    "load": "sources",
}

__all__ = [
    "Compose",
    "DataSet",
    "FAMILIES",
    "MemoryImages",
    "RandomCrop",
    "RandomFlip",
    "RandomRotation",
    "StreamedImages",
    "carve_validation",
    "family_of",
    "load",
]


__getattr__ = exporter(__name__, _HOME)
