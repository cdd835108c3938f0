"""What a trained network leans on, as data: figures of a run that an accuracy does not show."""

from __future__ import annotations

from typing import TYPE_CHECKING

from deconfound.lazy import exporter

if TYPE_CHECKING:
    from deconfound.analysis.causal_kinds import (
        KINDS,
        Kinds,
        inversion_distances,
        kind_logits,
        kind_residuals,
        observe_kinds,
    )
    from deconfound.analysis.effects import EffectParts, analyse_effects
    from deconfound.analysis.exposure import ExposureParts, analyse_exposure
    from deconfound.analysis.instruments import diagnose_instruments
    from deconfound.analysis.iv import diagnose
    from deconfound.analysis.matching import Matching, match_features
    from deconfound.analysis.pictures import make_pictures
    from deconfound.analysis.reliance import Predictor, measure_reliance, sweep
    from deconfound.analysis.saliency import integrated_gradients
    from deconfound.analysis.style import StyleParts, analyse_style, bases_of

_HOME = {
    "KINDS": "causal_kinds",
    "Kinds": "causal_kinds",
    "inversion_distances": "causal_kinds",
    "kind_logits": "causal_kinds",
    "kind_residuals": "causal_kinds",
    "observe_kinds": "causal_kinds",
    "EffectParts": "effects",
    "analyse_effects": "effects",
    "ExposureParts": "exposure",
    "analyse_exposure": "exposure",
    "diagnose_instruments": "instruments",
    "diagnose": "iv",
    "Matching": "matching",
    "match_features": "matching",
    "make_pictures": "pictures",
    "Predictor": "reliance",
    "measure_reliance": "reliance",
    "sweep": "reliance",
    "integrated_gradients": "saliency",
    "StyleParts": "style",
    "analyse_style": "style",
    "bases_of": "style",
}
__all__ = [
    "KINDS",
    "EffectParts",
    "ExposureParts",
    "Kinds",
    "Matching",
    "Predictor",
    "StyleParts",
    "analyse_effects",
    "analyse_exposure",
    "analyse_style",
    "bases_of",
    "diagnose",
    "diagnose_instruments",
    "integrated_gradients",
    "inversion_distances",
    "kind_logits",
    "kind_residuals",
    "make_pictures",
    "match_features",
    "measure_reliance",
    "observe_kinds",
    "sweep",
]


__getattr__ = exporter(__name__, _HOME)
