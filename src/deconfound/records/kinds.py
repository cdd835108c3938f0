"""Every kind of analysis record."""

from __future__ import annotations

from collections.abc import Mapping

from deconfound.records.analysis import AnalysisRecord, StyleRecord
from deconfound.records.checkpoints import CheckpointsRecord
from deconfound.records.effects import EffectsRecord
from deconfound.records.exposure import ExposureRecord
from deconfound.records.instruments import InstrumentsRecord
from deconfound.records.pictures import PicturesRecord
from deconfound.records.reliance import RelianceRecord

_ALL: tuple[type[AnalysisRecord], ...] = (
    StyleRecord,
    RelianceRecord,
    InstrumentsRecord,
    PicturesRecord,
    ExposureRecord,
    EffectsRecord,
    CheckpointsRecord,
)
ANALYSES: Mapping[str, type[AnalysisRecord]] = {kind.expected_kind: kind for kind in _ALL}
"""By the ``kind`` that stands in the file."""
