"""The four kinds of features of CAFE, decoded by one head, and how near causal inversion comes to its target.

Shapes: N images, B of a batch, K classes; features F, Z (B, ...) of any cut, logits (N, K), labels (N,) int64.

Source: Kim, Lee, Ro 2023, arXiv 2303.01052.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from deconfound.analysis.observing import quiet
from deconfound.analysis.readers import accuracy
from deconfound.core.checks import check_images, check_labels, check_logits
from deconfound.core.protocols import Attack, CausalFeatures, Classifier, ImageSource, Monitor
from deconfound.core.streams import Streams
from deconfound.errors import require, require_whole
from deconfound.functional.losses import cross_entropy, kl_divergence
from deconfound.functional.moments import MOMENTS, Moment
from deconfound.records import Accuracy

KINDS = ("adversarial", "counterfactual", "counterfactual_causal", "adversarial_causal")
"""Logits of F + Z, F + g(Z), F + h(g(Z)) and F + h(Z): Adv, CF, CC and AC in the paper."""

SCALE = 1000.0
"""Distances are KL * 10^3, as in the paper's table."""


def kind_residuals(causal: CausalFeatures, test_function: nn.Module | None, instrument: Tensor) -> dict[str, Tensor]:
    """Z, g(Z), h(g(Z)) and h(Z): what is added to F, by kind, in the modes that the networks are in.

    Args:
        causal: a network cut at a feature map with h.
        test_function: g; None for g(Z) = Z.
        instrument: Z = F of the adversarial images - F.
    """
    tested = instrument if test_function is None else test_function(instrument)
    residuals = (instrument, tested, causal.hypothesis(tested), causal.hypothesis(instrument))
    return dict(zip(KINDS, residuals, strict=True))


def kind_logits(
    causal: CausalFeatures, test_function: nn.Module | None, natural: Tensor, instrument: Tensor
) -> dict[str, Tensor]:
    """Logits (B, K) of the four kinds, in the modes that the networks are in.

    Args:
        causal: a network cut at a feature map with h.
        test_function: g; None for g(Z) = Z.
        natural: F of the clean images.
        instrument: Z = F of the adversarial images - F.
    """
    residuals = kind_residuals(causal, test_function, instrument)
    return {kind: causal.head(natural + residual) for kind, residual in residuals.items()}


@dataclass(frozen=True)
class Kinds:
    """What the head makes of the four kinds of features of N images, on the processor.

    Attributes:
        labels: (N,) int64.
        logits: (N, K) of each kind.
        distance: |g(Z) - Z| of each image, (N,).
        moments: of the game: J's moment and what bounds the test function.
        bound: the penalty of g(Z), which lambda weighs, mean over the images.
    """

    labels: Tensor
    logits: Mapping[str, Tensor]
    distance: Tensor
    moments: Moment
    bound: float

    @property
    def accuracies(self) -> dict[str, Accuracy]:
        """Share of right predictions of each kind, with its 95 % Wilson interval."""
        return {kind: accuracy(logits, self.labels) for kind, logits in self.logits.items()}

    @property
    def cross_entropies(self) -> dict[str, float]:
        """Mean of -log p_y of each kind."""
        return {kind: float(cross_entropy(one, self.labels).mean()) for kind, one in self.logits.items()}

    @property
    def moment(self) -> float:
        """J, the mean moment of the logits of F + h(g(Z)) and of F + g(Z)."""
        pair = self.logits["counterfactual_causal"], self.logits["counterfactual"]
        return float(self.moments.value(self.labels, *pair).mean())


def observe_kinds(
    causal: CausalFeatures,
    test_function: nn.Module | None,
    source: ImageSource,
    index: Tensor,
    attack: Attack,
    *,
    seed: int,
    batch_size: int,
    device: torch.device | str = "cpu",
    climbed: Classifier | None = None,
    moments: Moment = MOMENTS["log_product"],
    monitor: Monitor | None = None,
) -> Kinds:
    """Attack the network of ``causal`` on some images, and decode all four kinds of features; eval mode throughout.

    Args:
        causal: the network on which h was trained, with h.
        test_function: g; None for g(Z) = Z.
        source: N images or more.
        index: the places in the source, (N,) int64.
        attack: makes the adversarial versions, every image by its last step (``keep="last"``).
        seed: of all random numbers, which depend on it and an image's place alone.
        batch_size: images at a time; it changes nothing beyond rounding.
        device: where the networks are.
        climbed: what the attack climbs; None for the network.
        moments: what the game was played with.
        monitor: shows progress.

    Raises:
        InputError: images outside [0, 1], labels that do not fit.
    """
    networks = (causal, causal.network, test_function)
    rows: list[dict[str, Tensor]] = []
    with quiet(torch.device(device), *networks):
        for images, labels, streams in _batches(source, index, batch_size, device, seed, attack, monitor):
            moved = attack(causal.network if climbed is None else climbed, images, labels, streams)
            rows.append(_decoded(causal, test_function, images, moved, labels, moments))
    whole = {name: torch.cat([row[name] for row in rows]) for name in rows[0]}
    logits = {kind: whole[kind] for kind in KINDS}
    return Kinds(whole["labels"], logits, whole["distance"], moments, float(whole["bound"].mean()))


def _decoded(
    causal: CausalFeatures,
    test_function: nn.Module | None,
    images: Tensor,
    moved: Tensor,
    labels: Tensor,
    moments: Moment,
) -> dict[str, Tensor]:
    with torch.no_grad():
        natural = causal.features(images)
        instrument = causal.features(moved) - natural
        found = kind_logits(causal, test_function, natural, instrument)
        check_labels(labels, check_logits(found["adversarial"], len(labels)), len(labels))
        tested = instrument if test_function is None else test_function(instrument)
        found["distance"] = (tested - instrument).flatten(1).norm(dim=1)
        found["bound"] = moments.penalty(tested, instrument).expand(len(labels))
    return {name: value.cpu() for name, value in (found | {"labels": labels}).items()}


def inversion_distances(
    model: Classifier,
    causal: CausalFeatures,
    inversion: Attack,
    source: ImageSource,
    index: Tensor,
    attack: Attack,
    *,
    seed: int,
    batch_size: int,
    device: torch.device | str = "cpu",
    monitor: Monitor | None = None,
) -> dict[str, Tensor]:
    """KL(p(.) || AC) * 10^3 of each image, (N,), for its ``inversion``, its ``clean`` and its ``adversarial`` version.

    p is the model's prediction, AC the adversarial causal prediction of the reference. A short distance of the
    inversion says that some image near the clean one is seen as h says; means are for the caller.

    Args:
        model: an ordinary classifier: the reference's network, or the one that was inoculated.
        causal: the reference, with h.
        inversion: as ``attacks.causal_inversion`` makes it.
        source, index, attack, seed, batch_size, device, monitor: as in ``observe_kinds``; the attack is on the model.
    """
    rows: list[dict[str, Tensor]] = []
    with quiet(torch.device(device), model, causal, causal.network):
        for images, labels, streams in _batches(source, index, batch_size, device, seed, attack, monitor):
            moved = attack(model, images, labels, streams)
            with torch.no_grad():
                target = causal.causal(causal.features(images), causal.features(moved))
            inverted = inversion(model, images, labels, streams.fold("inversion"), {"target_logits": target})
            with torch.no_grad():
                versions = {"inversion": inverted, "clean": images, "adversarial": moved}
                rows.append({name: kl_divergence(model(one), target).cpu() for name, one in versions.items()})
    return {name: SCALE * torch.cat([row[name] for row in rows]) for name in rows[0]}


def _batches(
    source: ImageSource,
    index: Tensor,
    batch_size: int,
    device: torch.device | str,
    seed: int,
    attack: Attack,
    monitor: Monitor | None,
) -> Iterator[tuple[Tensor, Tensor, Streams]]:
    require_whole("batch_size", batch_size)
    require(len(index) > 0, "index", len(index), "at least one image")
    if monitor is not None:
        monitor.start(attack.name, len(index))
    done = 0
    for batch in source.batches(index.split(batch_size), device):
        check_images(batch.images)
        yield batch.images, batch.labels, Streams(seed, batch.index).fold("analysis", attack.name)
        done += len(batch.labels)
        if monitor is not None:
            monitor.update(done, {})
    if monitor is not None:
        monitor.finish()
