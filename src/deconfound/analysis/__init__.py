"""What a trained network leans on, as data: figures of a run that an accuracy does not show."""

from __future__ import annotations

from typing import TYPE_CHECKING

from deconfound.lazy import exporter

if TYPE_CHECKING:
    from deconfound.analysis.causal_kinds import KINDS, Kinds, inversion_distances, kind_logits, observe_kinds
    from deconfound.analysis.style import StyleParts, analyse_style, bases_of

_HOME = {
    "KINDS": "causal_kinds",
    "Kinds": "causal_kinds",
    "StyleParts": "style",
    "analyse_style": "style",
    "bases_of": "style",
    "inversion_distances": "causal_kinds",
    "kind_logits": "causal_kinds",
    "observe_kinds": "causal_kinds",
}
__all__ = [
    "KINDS",
    "Kinds",
    "StyleParts",
    "analyse_style",
    "bases_of",
    "inversion_distances",
    "kind_logits",
    "observe_kinds",
]


__getattr__ = exporter(__name__, _HOME)
