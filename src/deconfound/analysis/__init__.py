"""What a trained network leans on, as data: figures of a run that an accuracy does not show."""

from __future__ import annotations

from typing import TYPE_CHECKING

from deconfound.lazy import exporter

if TYPE_CHECKING:
    from deconfound.analysis.causal_kinds import KINDS, Kinds, causal_kinds, inversion_distances, kind_logits
    from deconfound.analysis.style import StyleParts, analyse_style, bases_of

_HOME = {
    "KINDS": "causal_kinds",
    "Kinds": "causal_kinds",
    "StyleParts": "style",
    "analyse_style": "style",
    "bases_of": "style",
    "causal_kinds": "causal_kinds",
    "inversion_distances": "causal_kinds",
    "kind_logits": "causal_kinds",
}
__all__ = [
    "KINDS",
    "Kinds",
    "StyleParts",
    "analyse_style",
    "bases_of",
    "causal_kinds",
    "inversion_distances",
    "kind_logits",
]


__getattr__ = exporter(__name__, _HOME)
