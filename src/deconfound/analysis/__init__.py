"""What a trained network leans on, as data: figures of a run that an accuracy does not show."""

from __future__ import annotations

from typing import TYPE_CHECKING

from deconfound.lazy import exporter

if TYPE_CHECKING:
    from deconfound.analysis.exposure import ExposureParts, analyse_exposure
    from deconfound.analysis.instruments import diagnose_instruments
    from deconfound.analysis.iv import diagnose
    from deconfound.analysis.matching import Matching, match_features
    from deconfound.analysis.pictures import make_pictures
    from deconfound.analysis.reliance import Predictor, measure_reliance, sweep
    from deconfound.analysis.saliency import integrated_gradients
    from deconfound.analysis.style import StyleParts, analyse_style, bases_of

_HOME = {
    "Matching": "matching",
    "integrated_gradients": "saliency",
    "make_pictures": "pictures",
    "match_features": "matching",
    "ExposureParts": "exposure",
    "Predictor": "reliance",
    "StyleParts": "style",
    "analyse_exposure": "exposure",
    "analyse_style": "style",
    "bases_of": "style",
    "diagnose": "iv",
    "diagnose_instruments": "instruments",
    "measure_reliance": "reliance",
    "sweep": "reliance",
}
__all__ = [
    "ExposureParts",
    "Matching",
    "Predictor",
    "StyleParts",
    "analyse_exposure",
    "analyse_style",
    "bases_of",
    "diagnose",
    "diagnose_instruments",
    "integrated_gradients",
    "make_pictures",
    "match_features",
    "measure_reliance",
    "sweep",
]


__getattr__ = exporter(__name__, _HOME)
