"""Records of causal effects (CAFE): what is decoded from the four kinds of features, and how near inversion comes."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, ClassVar

from pydantic import Field

from deconfound.records.analysis import Accuracy, AttackedRecord, Attacker
from deconfound.records.base import Record
from deconfound.records.exposure import Mean

SHORT: Mapping[str, str] = MappingProxyType(
    {"adversarial": "Adv", "counterfactual": "CF", "counterfactual_causal": "CC", "adversarial_causal": "AC"}
)
"""The four kinds of features as the paper calls them."""

PENALTIES: Mapping[str, str] = MappingProxyType({"distance": "(g(Z) - Z)^2", "size": "g(Z)^2"})
"""What lambda weighs, by the name of the penalty."""


class FeatureKind(Record):
    """One of the four kinds of features, decoded by the head of the frozen network.

    Attributes:
        name: ``adversarial``, ``counterfactual``, ``counterfactual_causal`` or ``adversarial_causal``.
        accuracy: of its prediction.
        cross_entropy: mean of -log p_y, in nats.
        around: mean probability of the classes y + k, counted round, for each of ``EffectsRecord.offsets``.
    """

    name: str
    accuracy: Accuracy
    cross_entropy: float
    around: tuple[float, ...]


class InversionDistance(Record):
    """How far a network's predictions are from the causal one: KL(p || AC) * 10^3, means over images.

    Attributes:
        network: ``base``, the frozen one, or ``defence``, the one that was inoculated.
        inversion, clean, adversarial: p of the causal inversion, the image, its adversarial version.
    """

    network: str
    inversion: Mean
    clean: Mean
    adversarial: Mean


class AttackedKinds(Record):
    """What one attack on the base network makes of the four kinds of features; see ``EffectsRecord``."""

    attack: Attacker
    moment: float
    bound: float
    distance: Mean
    kinds: Annotated[tuple[FeatureKind, ...], Field(min_length=1)]


class EffectsRecord(AttackedRecord):
    """What AMR-GMM found in the features of the base network; the attack is on it, for the defence on the defence.

    ``attack`` is the first of the attacks; ``moment``, ``bound``, ``distance``, ``kinds`` and ``distances`` are under
    it.

    Attributes:
        game: settings of AMR-GMM.
        moment_name: of the game, or of J where it is another one: records without it hold that of ``log_product``.
        moment: J, the mean of it over the logits of F + h(g(Z)) and F + g(Z).
        penalty_name: of what lambda weighs: ``distance``, (g(Z) - Z)^2, or ``size``, g(Z)^2.
        bound: it, mean over all elements.
        distance: |g(Z) - Z| of an image.
        offsets: k of ``FeatureKind.around``; 0 is the true label.
        kinds: adversarial, counterfactual, counterfactual causal and adversarial causal features.
        inversion: settings of the causal inversion.
        others: the other attacks; none in older records.
        distances: of the base network, and of the defence where the run has one.
    """

    expected_kind: ClassVar[str] = "effects-analysis"
    kind: str = "effects-analysis"
    game: dict[str, Any]
    moment_name: str = "log_product"
    moment: float
    penalty_name: str = "distance"
    bound: float
    distance: Mean
    offsets: tuple[int, ...]
    kinds: Annotated[tuple[FeatureKind, ...], Field(min_length=1)]
    others: tuple[AttackedKinds, ...] = ()
    inversion: dict[str, Any]
    distances: Annotated[tuple[InversionDistance, ...], Field(min_length=1)]

    @property
    def attacks(self) -> tuple[AttackedKinds, ...]:
        """Every attack, the first one first."""
        names = ("attack", "moment", "bound", "distance", "kinds")
        return (AttackedKinds(**{name: getattr(self, name) for name in names}), *self.others)


__all__ = ["AttackedKinds", "EffectsRecord", "FeatureKind", "InversionDistance"]
