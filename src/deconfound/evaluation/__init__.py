"""Judging models: robust accuracy with everything needed to believe it, as one record. Attacks are passed in."""

from __future__ import annotations

from typing import TYPE_CHECKING

from deconfound.lazy import exporter

if TYPE_CHECKING:
    from deconfound.evaluation.judging import evaluate
    from deconfound.evaluation.masking import Probes, verdict
    from deconfound.evaluation.provenance import Provenance

_HOME = {"Probes": "masking", "Provenance": "provenance", "evaluate": "judging", "verdict": "masking"}
__all__ = ["Probes", "Provenance", "evaluate", "verdict"]


__getattr__ = exporter(__name__, _HOME)
