"""Pictures of a network: what its features look like, natural and adversarial, and what its logit rests on.

Shapes: B images (B, C, H, W) in [0, 1], labels (B,) int64, D features; features (B, D), logits (B, K).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor

from deconfound.analysis.attacker import attack_fields
from deconfound.analysis.matching import Matching, cosine, match_features
from deconfound.analysis.neighbours import queries
from deconfound.analysis.observing import SplitClassifier, device_of, quiet
from deconfound.analysis.saliency import STEPS, integrated_gradients, load_library, saliencies
from deconfound.core.checks import check_images, check_labels, check_logits
from deconfound.core.origin import Origin
from deconfound.core.pictures import png
from deconfound.core.protocols import Attack, ImageSource, Monitor
from deconfound.core.streams import Streams
from deconfound.core.types import Batch
from deconfound.errors import require, require_whole
from deconfound.functional.predictions import predicted
from deconfound.records import FeaturePicture, PicturedImage, PicturesRecord

SHOWN = 6
"""Images, each of another class."""

Target = Callable[[Tensor, Tensor], Tensor]
"""(F_nat, F_adv), both (B, D), -> the features to picture, (B, D)."""

TARGETS: Mapping[str, Target] = MappingProxyType(
    {"natural": lambda natural, adversarial: natural, "adversarial": lambda natural, adversarial: adversarial}
)

# Among so many of the images, in order, the shown ones are sought.
_SEARCHED = 1000


@dataclass(frozen=True)
class _Pair:
    """Images, their adversarial versions, and the features of both."""

    batch: Batch
    adversarial: Tensor
    natural_features: Tensor
    adversarial_features: Tensor


def make_pictures(
    model: SplitClassifier,
    source: ImageSource,
    index: Tensor,
    attack: Attack,
    origin: Origin,
    *,
    targets: Mapping[str, Target] = TARGETS,
    matching: Matching | None = None,
    layer: str = "",
    seed: int = 0,
    batch_size: int = 256,
    monitor: Monitor | None = None,
) -> PicturesRecord:
    """Optimise an image for each kind of features of some images, and integrate gradients of these beside them.

    Args:
        model: cut in two, features as vectors (N, D).
        source: N images or more.
        index: the places in the source, (N,) int64; the first of up to six classes are pictured.
        attack: makes the adversarial images.
        origin: of the model and the data.
        targets: by name, which features to picture; any function of F_nat and F_adv, such as those of a hypothesis
            model.
        matching: how pictures are searched for.
        layer: name of the cut, for the record.
        seed: of the attack and the search.
        batch_size: images at a time in the integration.
        monitor: shows progress.

    Raises:
        InputError: no ``captum``, no kind of features, images outside [0, 1], targets of another shape.

    Source: Kim et al. 2023 (arXiv 2303.01052), figure 3, for the kinds; Olah et al. 2017 for the method.
    """
    require(bool(targets), "targets", 0, "at least one kind of features")
    load_library()  # refused before anything is optimised
    matching = matching or Matching()
    begun, device = time.perf_counter(), device_of(model)
    with quiet(device, model):
        pair = _pair(model, source, _chosen(source, index[:_SEARCHED], batch_size), attack, seed, device)
        features = _features(model, pair, targets, matching, seed, monitor)
        images = _images(model, pair, features, batch_size)
    return PicturesRecord(
        **origin.fields(),
        **attack_fields(attack),
        n=len(images),
        seed=seed,
        seconds=time.perf_counter() - begun,
        layer=layer,
        dimension=pair.natural_features.shape[1],
        optimisation=matching.settings(),
        integration={"steps": STEPS, "baseline": "black", "logit": "of the true class"},
        images=images,
    )


def _chosen(source: ImageSource, index: Tensor, batch_size: int) -> Tensor:
    require_whole("batch_size", batch_size)
    labels = torch.cat([batch.labels for batch in source.batches(index.split(batch_size))])
    return index[queries(labels, SHOWN)]


def _pair(
    model: SplitClassifier, source: ImageSource, index: Tensor, attack: Attack, seed: int, device: torch.device
) -> _Pair:
    (batch,) = source.batches([index], device)
    check_images(batch.images)
    with torch.no_grad():
        natural = model.features(batch.images)
        check_labels(batch.labels, check_logits(model.head(natural), len(index)), len(index))
    adversarial = attack(model, batch.images, batch.labels, Streams(seed, batch.index).fold("analysis", attack.name))
    with torch.no_grad():
        return _Pair(batch, adversarial, natural, model.features(adversarial))


def _features(
    model: SplitClassifier,
    pair: _Pair,
    targets: Mapping[str, Target],
    matching: Matching,
    seed: int,
    monitor: Monitor | None,
) -> list[list[FeaturePicture]]:
    """For each kind a picture of each image."""
    found = []
    shape = tuple(pair.batch.images.shape[1:])
    for name, target in targets.items():
        with torch.no_grad():
            wanted = target(pair.natural_features, pair.adversarial_features)
        require(wanted.shape == pair.natural_features.shape, f"targets: {name}", tuple(wanted.shape),
                f"features {tuple(pair.natural_features.shape)}")  # fmt: skip
        streams = Streams(seed, pair.batch.index).fold("pictures", name)
        if monitor is not None:
            monitor.start(f"pictures of {name} features", matching.steps)
        after = None if monitor is None else (lambda done: monitor.update(done, {}))
        images = match_features(model.features, wanted, shape, streams, matching, after=after)  # type: ignore[arg-type]
        if monitor is not None:
            monitor.finish()
        found.append(_pictures(model, name, images, wanted))
    return found


def _pictures(model: SplitClassifier, name: str, images: Tensor, wanted: Tensor) -> list[FeaturePicture]:
    with torch.no_grad():
        reached = model.features(images)
        seen, decoded = predicted(model.head(reached)), predicted(model.head(wanted))
    alike = cosine(reached, wanted)
    apart = (reached - wanted).double().norm(dim=1) / wanted.double().norm(dim=1).clamp_min(1e-12)
    return [
        FeaturePicture(
            kind=name,
            png=png(images[i]),
            cosine=float(alike[i]),
            distance=float(apart[i]),
            prediction=int(seen[i]),
            decoded=int(decoded[i]),
        )
        for i in range(len(images))
    ]


def _images(
    model: SplitClassifier, pair: _Pair, features: list[list[FeaturePicture]], batch_size: int
) -> tuple[PicturedImage, ...]:
    batch, versions = pair.batch, (pair.batch.images, pair.adversarial)
    heats = [saliencies(integrated_gradients(model, x, batch.labels, batch_size=batch_size)) for x in versions]
    with torch.no_grad():
        before, after = (predicted(model(x)) for x in versions)
    return tuple(
        PicturedImage(
            index=int(batch.index[i]),
            label=int(batch.labels[i]),
            png=png(batch.images[i]),
            prediction=int(before[i]),
            adversarial_png=png(pair.adversarial[i]),
            adversarial_prediction=int(after[i]),
            features=tuple(kind[i] for kind in features),
            saliency=heats[0][i],
            adversarial_saliency=heats[1][i],
        )
        for i in range(len(batch.labels))
    )


__all__ = ["SHOWN", "TARGETS", "Target", "make_pictures"]
