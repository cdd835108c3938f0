"""Causal effects as a record: the four kinds of CAFE's features, and the distances of causal inversion.

Shapes: N images, K classes; logits (N, K), labels (N,) int64.

Source: Kim, Lee, Ro 2023, arXiv 2303.01052.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from deconfound.analysis.causal_kinds import Kinds, inversion_distances, observe_kinds
from deconfound.analysis.means import mean_of
from deconfound.analysis.observing import device_of
from deconfound.core.origin import Origin
from deconfound.core.protocols import Attack, CausalFeatures, Classifier, ImageSource, Monitor
from deconfound.errors import require
from deconfound.functional.moments import MOMENTS, Moment
from deconfound.records import AttackedKinds, Attacker, EffectsRecord, FeatureKind, InversionDistance, Threat

REACH = 4
"""Classes on each side of the true label."""


@dataclass(frozen=True, kw_only=True)
class EffectParts:
    """What the analysis needs of a run.

    Attributes:
        causal: the frozen network with h.
        test_function: g; None for g(Z) = Z.
        climbed: what attacks on the frozen network climb, an ordinary classifier; itself where it is one.
        defence: the network that was inoculated, an ordinary classifier; None where there is none.
        game: settings of AMR-GMM, for the record.
        moments: what it was played with.
    """

    causal: CausalFeatures
    test_function: nn.Module | None
    climbed: Classifier
    defence: Classifier | None
    game: Mapping[str, Any]
    moments: Moment = MOMENTS["log_product"]


def around(logits: Tensor, labels: Tensor, offsets: tuple[int, ...]) -> tuple[float, ...]:
    """Mean probability of the classes y + k, counted round.

    >>> import torch
    >>> around(torch.tensor([[9e9, 0.0, 0.0], [0.0, 0.0, 9e9]]), torch.tensor([0, 1]), (-1, 0, 1))
    (0.0, 0.5, 0.5)
    """
    p = logits.double().softmax(dim=1)
    places = [(labels + k) % p.shape[1] for k in offsets]
    return tuple(float(p.gather(1, place[:, None]).mean()) for place in places)


def analyse_effects(
    parts: EffectParts,
    source: ImageSource,
    index: Tensor,
    attacks: Sequence[Attack],
    inversion: Attack,
    origin: Origin,
    *,
    seed: int = 0,
    batch_size: int = 256,
    monitor: Monitor | None = None,
) -> EffectsRecord:
    """Attack the networks, decode the four kinds of features, and measure how near inversion comes to h's prediction.

    Args:
        parts: networks and players.
        source: N images or more.
        index: the places in the source, (N,) int64.
        attacks: make the adversarial versions, each of every image (``keep="last"``); distances are under the first.
        inversion: as ``attacks.causal_inversion`` makes it.
        origin: of the model and the data.
        seed: of all random numbers.
        batch_size: images at a time.
        monitor: shows progress.

    Raises:
        InputError: bad input, such as images outside [0, 1], or no attack.
    """
    begun = time.perf_counter()
    networks = {"base": parts.climbed} | ({} if parts.defence is None else {"defence": parts.defence})
    device = device_of(parts.causal.network)
    require(len(attacks) > 0, "attack", len(attacks), "at least one")
    attack, *_ = attacks
    reach = min(REACH, (len(origin.class_names) - 1) // 2)
    offsets = tuple(range(-reach, reach + 1))
    first, *others = (
        _attacked(
            one,
            observe_kinds(
                parts.causal,
                parts.test_function,
                source,
                index,
                one,
                seed=seed,
                batch_size=batch_size,
                device=device,
                climbed=parts.climbed,
                moments=parts.moments,
                monitor=monitor,
            ),
            offsets,
        )
        for one in attacks
    )
    distances = {
        name: inversion_distances(
            network,
            parts.causal,
            inversion,
            source,
            index,
            attack,
            seed=seed,
            batch_size=batch_size,
            device=device,
            monitor=monitor,
        )
        for name, network in networks.items()
    }
    return EffectsRecord(
        **origin.fields(),
        threat=Threat(norm=attack.threat.norm, eps=attack.threat.eps, box=attack.threat.box),
        **vars(first),
        n=len(index),
        seed=seed,
        seconds=time.perf_counter() - begun,
        game=dict(parts.game),
        moment_name=parts.moments.name,
        penalty_name=parts.moments.penalty_name,
        offsets=offsets,
        others=tuple(others),
        inversion=inversion.settings(),
        distances=tuple(
            InversionDistance(network=name, **{version: mean_of(values) for version, values in one.items()})
            for name, one in distances.items()
        ),
    )


def _attacked(attack: Attack, found: Kinds, offsets: tuple[int, ...]) -> AttackedKinds:
    return AttackedKinds(
        attack=Attacker(name=attack.name, settings=attack.settings()),
        moment=found.moment,
        bound=found.bound,
        distance=mean_of(found.distance),
        kinds=_kinds(found, offsets),
    )


def _kinds(found: Kinds, offsets: tuple[int, ...]) -> tuple[FeatureKind, ...]:
    accuracies, entropies = found.accuracies, found.cross_entropies
    return tuple(
        FeatureKind(
            name=name,
            accuracy=accuracies[name],
            cross_entropy=entropies[name],
            around=around(logits, found.labels, offsets),
        )
        for name, logits in found.logits.items()
    )


__all__ = ["EffectParts", "analyse_effects", "around"]
