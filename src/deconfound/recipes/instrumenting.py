"""Instrument diagnostics of a run, put together from its network, a cut and an attack."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from deconfound.analysis import diagnose_instruments
from deconfound.analysis.instruments import INSTRUMENTS, TREATMENTS
from deconfound.analysis.iv import load_library
from deconfound.attacks import PGD
from deconfound.recipes.cutting import cut_run
from deconfound.recipes.loading import Loaded
from deconfound.recipes.schema import Recipe
from deconfound.records import InstrumentsRecord

if TYPE_CHECKING:
    from deconfound.recipes.analysing import Look, Scene

STEPS = 20


def components_of(look: Look) -> tuple[int, int]:
    """Components of treatment and instrument: what was asked for, else 4 and 8, twice as many instruments."""
    treatments = TREATMENTS if look.treatments is None else look.treatments
    usual = INSTRUMENTS if look.treatments is None else 2 * treatments
    return treatments, usual if look.instruments is None else look.instruments


def instruments_analysis(look: Look, loaded: Loaded, recipe: Recipe) -> Callable[[Scene], InstrumentsRecord] | None:
    """What diagnoses the instrument; None for a network without a feature split.

    Raises:
        InputError: a layer that does not exist, no ``linearmodels``.
    """
    model = cut_run(look.run, loaded, look.layer)
    if model is None:
        return None
    load_library()
    treatments, instruments = components_of(look)

    def work(scene: Scene) -> InstrumentsRecord:
        return diagnose_instruments(
            model,
            scene.test,
            scene.index,
            PGD(recipe.threat, steps=STEPS, keep="last"),
            scene.origin,
            treatments=treatments,
            instruments=instruments,
            layer=look.layer or "",
            seed=look.seed,
            batch_size=look.batch_size,
            monitor=scene.monitor,
        )

    return work
