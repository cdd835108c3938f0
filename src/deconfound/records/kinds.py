"""Every kind of analysis record."""

from __future__ import annotations

from collections.abc import Mapping

from deconfound.records.analysis import AnalysisRecord, StyleRecord
from deconfound.records.reliance import RelianceRecord

ANALYSES: Mapping[str, type[AnalysisRecord]] = {kind.expected_kind: kind for kind in (StyleRecord, RelianceRecord)}
"""By the ``kind`` that stands in the file."""
