"""What a trained network leans on, as data: figures of a run that an accuracy does not show."""

from __future__ import annotations

from typing import TYPE_CHECKING

from deconfound.lazy import exporter

if TYPE_CHECKING:
    from deconfound.analysis.style import StyleParts, analyse_style, bases_of

_HOME = {
    "StyleParts": "style",
    "analyse_style": "style",
    "bases_of": "style",
}
__all__ = ["StyleParts", "analyse_style", "bases_of"]


__getattr__ = exporter(__name__, _HOME)
