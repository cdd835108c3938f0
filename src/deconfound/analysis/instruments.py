"""Instrument diagnostics of a network: adversarial variation of features as an instrument for their effect.

Shapes: N images, K classes, D features, P treatments, Q instruments; F_nat, F_adv (N, D), logits (N, K), labels (N,).
"""

from __future__ import annotations

import time

import torch
from torch import Tensor

from deconfound.analysis.attacker import attack_fields
from deconfound.analysis.components import predicted_share, principal_components
from deconfound.analysis.iv import diagnose, load_library
from deconfound.analysis.observing import SplitClassifier, device_of, observe, quiet
from deconfound.core.origin import Origin
from deconfound.core.protocols import Attack, ImageSource, Monitor
from deconfound.errors import require, require_whole
from deconfound.records import InstrumentsRecord

TREATMENTS, INSTRUMENTS = 4, 8
LARGEST = 2**27
"""Numbers in all features together: 1 GiB in float64."""


def diagnose_instruments(
    model: SplitClassifier,
    source: ImageSource,
    index: Tensor,
    attack: Attack,
    origin: Origin,
    *,
    treatments: int = TREATMENTS,
    instruments: int = INSTRUMENTS,
    layer: str = "",
    seed: int = 0,
    batch_size: int = 256,
    monitor: Monitor | None = None,
) -> InstrumentsRecord:
    """Is the features' adversarial variation a relevant and valid instrument for their effect on the true logit?

    Z = F_adv - F_nat, T = F_adv, Y = z_y(F_adv); Z and T by their principal components of unit variance.

    Args:
        model: cut in two, features as vectors (N, D).
        source: N images or more.
        index: the places in the source, (N,) int64.
        attack: makes the adversarial images.
        origin: of the model and the data.
        treatments: P, components of T.
        instruments: Q, components of Z, more than P.
        layer: name of the cut, for the record.
        seed: of the attack.
        batch_size: images at a time.
        monitor: shows progress.

    Raises:
        InputError: components that do not fit together or the data, too few or too many images, no ``linearmodels``.

    Components of T that are left out stay in the error and are moved by Z, so that the tests may reject a valid
    instrument; the record says how much of Y the components predict beside all of T.

    Source: the graph Z -> T -> Y <- U -> T of Kim et al. 2023 (arXiv 2303.01052), who assume relevance and validity;
    what can be tested of them is tested here.
    """
    check_components(treatments, instruments)
    load_library()  # refused before the attack is run
    begun = time.perf_counter()
    device = device_of(model)
    _check_memory(model, source, index, device)
    seen = observe(model, source, index, attack, seed=seed, batch_size=batch_size, device=device, monitor=monitor)
    treatment = principal_components(seen.adversarial.features, treatments, "treatments")
    moved = seen.adversarial.features.double() - seen.natural.features.double()
    instrument = principal_components(moved, instruments, "instruments")
    outcome = seen.adversarial.logits.double().gather(1, seen.labels[:, None])[:, 0]
    found = diagnose(outcome.numpy(), treatment.scores.numpy(), instrument.scores.numpy())
    return InstrumentsRecord(
        **origin.fields(),
        **attack_fields(attack),
        n=len(index),
        seed=seed,
        seconds=time.perf_counter() - begun,
        layer=layer,
        dimension=seen.natural.features.shape[1],
        treatment_share=treatment.share,
        instrument_share=instrument.share,
        instruments=instruments,
        components_r2=predicted_share(treatment.scores, outcome),
        features_r2=predicted_share(seen.adversarial.features, outcome),
        **vars(found),
    )


def _check_memory(model: SplitClassifier, source: ImageSource, index: Tensor, device: torch.device) -> None:
    (batch,) = source.batches([index[:1]], device)
    with quiet(device, model), torch.no_grad():
        dimension = model.features(batch.images).shape[1]
    most = LARGEST // dimension
    rule = f"at most {most} images with {dimension} features at this cut (-n), so that they fit into memory"
    require(len(index) <= most, "n", len(index), rule)


def check_components(treatments: int, instruments: int) -> None:
    """What is asked of the numbers of components.

    Raises:
        InputError: no treatment, or not more instruments than treatments.
    """
    require_whole("treatments", treatments)
    rule = f"more than the {treatments} treatments, so that over-identification can be tested"
    require(instruments > treatments, "instruments", instruments, rule)


__all__ = ["INSTRUMENTS", "TREATMENTS", "check_components", "diagnose_instruments"]
