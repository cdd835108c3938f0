"""Judging models: robust accuracy with everything needed to believe it, as one record. Attacks are passed in."""

from __future__ import annotations

from typing import TYPE_CHECKING

from deconfound.lazy import exporter

if TYPE_CHECKING:
    from deconfound.evaluation.certifying import Certification, certify
    from deconfound.evaluation.judging import evaluate
    from deconfound.evaluation.majority import Majority
    from deconfound.evaluation.masking import verdict
    from deconfound.evaluation.provenance import Provenance
    from deconfound.evaluation.scene import Probes

_HOME = {
    "Certification": "certifying",
    "Majority": "majority",
    "Probes": "scene",
    "Provenance": "provenance",
    "certify": "certifying",
    "evaluate": "judging",
    "verdict": "masking",
}
__all__ = ["Certification", "Majority", "Probes", "Provenance", "certify", "evaluate", "verdict"]


__getattr__ = exporter(__name__, _HOME)
