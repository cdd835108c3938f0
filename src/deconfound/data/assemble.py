"""From splits as they were read to image sources of one shape and one list of classes.

Shapes: N images (N, C, H, W) uint8 or float32, labels (N,) int64.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from deconfound.core.protocols import ImageSource
from deconfound.data import columns
from deconfound.data.decode import RESIZING, Pixels, decode, fit_channels, is_grey, same_size
from deconfound.data.memory import MemoryImages
from deconfound.data.streamed import Form, StreamedImages
from deconfound.errors import InputError, require

Split = Any
"""(images, labels), (images, labels, class_names), or a ``datasets.Dataset``."""

TEST_NAMES = ("test", "validation", "valid", "val")
PROBED = 64  # images of a split that are decoded to learn the shape
CHUNK = 256  # rows that are read at a time


class Wanted(NamedTuple):
    """What ``load`` was asked for."""

    size: int | None
    channels: int | None
    limit_memory: int
    workers: int
    parts: Sequence[str] = ("train", "test")


Pair = tuple[ImageSource | None, ImageSource | None]


def assemble(name: str, splits: Mapping[str, Split], wanted: Wanted) -> Pair:
    """Train and test as image sources.

    Raises:
        InputError: no usable split, an empty one, or anything wrong with its images or labels.
    """
    chosen = _chosen(name, splits)
    some = any(role in wanted.parts for role in chosen)
    place = f"; those of a folder lie in {name}/{wanted.parts[0]}/CLASS" if Path(name).expanduser().is_dir() else ""
    rule = f"a data set with {' or '.join(wanted.parts)} images; it has {', '.join(chosen)}{place}"
    require(some, "data", name, rule)
    pairs = [role for role, split in chosen.items() if isinstance(split, (tuple, list))]
    rule = "tables for all splits or (images, labels) for all splits"
    require(len(pairs) in (0, len(chosen)), f"data: {name}", f"(images, labels) for {pairs} only", rule)
    found = _from_tensors(name, chosen, wanted) if pairs else _from_tables(name, chosen, wanted)
    return found.get("train"), found.get("test")


def _shown(name: str) -> str:
    """What records call the data: a folder by its last part, so that they do not depend on where it lies."""
    place = Path(name).expanduser()
    return (place.name or place.resolve().name) if place.is_dir() else name


def _chosen(name: str, splits: Mapping[str, Split]) -> dict[str, Split]:
    """The splits that serve as ``train`` and ``test``; unlabelled test images give way to validation images."""
    tests = [split for split in TEST_NAMES if split in splits]
    if len(tests) > 1 and tests[0] == "test" and _unlabelled(splits["test"]):
        tests = tests[1:]
    roles = {"train": ["train"] if "train" in splits else [], "test": tests}
    chosen = {role: splits[names[0]] for role, names in roles.items() if names}
    require(bool(chosen), f"data: {name}: splits", list(splits), f"train or one of {', '.join(TEST_NAMES)}")
    return chosen


def _unlabelled(split: Split) -> bool:
    if isinstance(split, (tuple, list)):
        labels = _as_tensor(split[1], "test: labels") if len(split) > 1 else torch.empty(0)
        return len(labels) > 0 and bool((labels == -1).all())
    if not _is_table(split) or not len(split):
        return False
    column = columns.find_label(split.features, "test")
    return bool((columns.read_labels(split, column, "test") == -1).all())


def _is_table(split: Split) -> bool:
    import datasets

    return isinstance(split, datasets.Dataset)


def _from_tables(name: str, chosen: Mapping[str, Any], wanted: Wanted) -> dict[str, ImageSource]:
    labels, kinds, rows = {}, {}, {}
    for role, table in chosen.items():
        source = f"{name}: {role}"
        rule = "(images, labels), (images, labels, class_names) or a datasets.Dataset"
        require(_is_table(table), source, type(table).__name__, rule)
        require(len(table) > 0, source, "an empty split", "at least one image")
        column = columns.find_label(table.features, source)
        labels[role] = columns.read_labels(table, column, source)
        kinds[role] = table.features[column]
        rows[role] = columns.EncodedRows(table, columns.find_image(table.features, source), source)
    names = columns.class_names_of(kinds, labels, name)
    for role, values in labels.items():
        columns.check_range(values, len(names), f"{name}: {role}")
    shape = _probe(rows, wanted)
    total = sum(len(part) for part in rows.values()) * int(np.prod(shape))
    if total > wanted.limit_memory:
        if shape[0] == 1 and wanted.channels is None and any(map(_has_colour, rows.values())):
            shape = (3, *shape[1:])
        form = Form(shape, wanted.size)
        return {
            role: StreamedImages(part, labels[role], names, f"{_shown(name)}[{role}]", form, workers=wanted.workers)
            for role, part in rows.items()
        }
    asked = {role: part for role, part in rows.items() if role in wanted.parts}
    images = _one_shape({role: _decoded(part, shape, wanted) for role, part in asked.items()})
    return {role: MemoryImages(images[role], labels[role], names, f"{_shown(name)}[{role}]") for role in asked}


def _probe(rows: Mapping[str, columns.EncodedRows], wanted: Wanted) -> tuple[int, int, int]:
    """The shape of the images, from a few of each split: grey only if all of them are."""
    seen: Pixels | None = None
    channels, other = 1, ""
    for part in rows.values():
        step = max(1, len(part) // PROBED)
        for data, place in part.read(range(0, len(part), step)[:PROBED]):
            pixels = decode(data, place, wanted.size)
            if seen is None:
                seen, other = pixels, place
            same_size(pixels, place, seen.shape[1], seen.shape[2], other)
            channels = max(channels, pixels.shape[0])
            if wanted.channels is not None:
                channels = len(fit_channels(pixels, wanted.channels, place))
    assert seen is not None  # empty splits were refused
    return channels, seen.shape[1], seen.shape[2]


def _has_colour(rows: columns.EncodedRows) -> bool:
    """Whether any image is in colour, from the heads of the files: streamed images have one shape from the start."""
    parts = (range(start, min(start + CHUNK, len(rows))) for start in range(0, len(rows), CHUNK))
    return any(not is_grey(data, place) for part in parts for data, place in rows.read(part))


def _decoded(rows: columns.EncodedRows, shape: tuple[int, int, int], wanted: Wanted) -> Tensor:
    """All images in one uint8 tensor. Threads do not pay: on small images most of the time is under the lock."""
    found: Pixels = np.empty((len(rows), *shape), dtype=np.uint8)
    _, height, width = shape
    for start in range(0, len(rows), CHUNK):
        part = range(start, min(start + CHUNK, len(rows)))
        for row, (data, place) in zip(part, rows.read(part), strict=True):
            pixels = decode(data, place, wanted.size)
            same_size(pixels, place, height, width, "the images before it")
            if wanted.channels is not None:
                pixels = fit_channels(pixels, wanted.channels, place)
            elif len(pixels) > found.shape[1]:  # the first colour image in what looked grey
                found = np.repeat(found, 3, axis=1)
            found[row] = pixels
    return torch.from_numpy(found)


def _one_shape(images: dict[str, Tensor]) -> dict[str, Tensor]:
    """Grey repeated to three channels where another split is in colour."""
    channels = max(part.shape[1] for part in images.values())
    fitted = {r: p.repeat(1, 3, 1, 1) if p.shape[1] == 1 < channels == 3 else p for r, p in images.items()}
    shapes = {role: tuple(part.shape[1:]) for role, part in fitted.items()}
    rule = f"images of one shape in all splits; {RESIZING}"
    require(len(set(shapes.values())) == 1, "image sizes", shapes, rule)
    return fitted


def _from_tensors(name: str, chosen: Mapping[str, Any], wanted: Wanted) -> dict[str, ImageSource]:
    images, labels, stated = {}, {}, {}
    for role, split in chosen.items():
        source = f"{name}: {role}"
        rule = "(images, labels) or (images, labels, class_names)"
        require(len(split) in (2, 3), source, f"{len(split)} values", rule)
        images[role] = _fitted(_as_images(split[0], source), wanted)
        labels[role] = _as_labels(split[1], source)
        if len(split) == 3:
            named = isinstance(split[2], Iterable) and not isinstance(split[2], str)
            require(named, f"{source}: class_names", split[2], "a list of names")
            stated[role] = tuple(str(label) for label in split[2])
    names = next(iter(stated.values()), None) or columns.numbered(labels.values())
    require(len(set(stated.values())) <= 1, f"data: {name}: class names", stated, "the same names in all splits")
    images = _one_shape(images)
    return {role: MemoryImages(images[role], labels[role], names, f"{_shown(name)}[{role}]") for role in images}


def _as_tensor(values: Any, field: str) -> Tensor:
    if isinstance(values, Tensor):
        return values.detach().cpu()
    try:
        return torch.from_numpy(np.array(values))
    except (TypeError, ValueError):
        raise InputError(field, type(values).__name__, "a tensor or an array of numbers") from None


def _as_images(values: Any, source: str) -> Tensor:
    """Images that a function returned: checked for rank and layout; their values are checked where they are kept."""
    images = _as_tensor(values, f"{source}: images")
    rule = "(N, C, H, W) with at least one image"
    if images.ndim == 4 and images.shape[-1] in (1, 3) and images.shape[1] not in (1, 3):
        rule += "; these look like (N, H, W, C), move the last axis"
        raise InputError(f"{source}: images", tuple(images.shape), rule)
    require(images.ndim == 4 and images.numel() > 0, f"{source}: images", tuple(images.shape), rule)
    return images


def _as_labels(values: Any, source: str) -> Tensor:
    labels = _as_tensor(values, f"{source}: labels")
    kind = str(labels.dtype).replace("torch.", "")
    whole = not (labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool)
    require(whole and labels.ndim == 1, f"{source}: labels", (kind, tuple(labels.shape)), "integers of shape (N,)")
    return labels.to(torch.int64)


def _fitted(images: Tensor, wanted: Wanted) -> Tensor:
    """Channels and size as asked for, with the rules that files have."""
    if wanted.channels is not None and images.shape[1] != wanted.channels:
        require(images.shape[1] == 1, "channels", wanted.channels, f"{images.shape[1]}, as the images have")
        images = images.repeat(1, wanted.channels, 1, 1)
    if wanted.size is None or images.shape[2:] == (wanted.size, wanted.size):
        return images
    height, width = images.shape[2:]
    scale = wanted.size / min(height, width)
    high, wide = max(wanted.size, round(height * scale)), max(wanted.size, round(width * scale))
    work = images.to(torch.float32)
    larger = F.interpolate(work, size=(high, wide), mode="bilinear", align_corners=False, antialias=True)
    top, left = (high - wanted.size) // 2, (wide - wanted.size) // 2
    cut = larger[:, :, top : top + wanted.size, left : left + wanted.size]
    return cut.round().to(torch.uint8) if images.dtype == torch.uint8 else cut.clamp(0, 1)
