"""Data by name: what is read, and where from.

Shapes: N images (N, C, H, W), labels (N,) int64.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch

from deconfound.core.guards import working_folder_importable
from deconfound.core.imported import imported, is_spec
from deconfound.core.protocols import ImageSource
from deconfound.data.assemble import Pair, Split, Wanted, assemble
from deconfound.data.confounded import Confounded, Confounding, LabelledSource
from deconfound.data.digits import digits
from deconfound.data.families import family_of
from deconfound.data.hub import quiet, reach
from deconfound.data.naming import SHAPES, DataName, check_overlay, check_settings, exists, parts_of, settings_of, whole
from deconfound.data.synthetic import ShapesSettings, shapes
from deconfound.errors import InputError, reason, require, require_whole, unknown_name

if TYPE_CHECKING:
    import datasets

# Offered when a name is unknown.
HUB_NAMES = (
    "ylecun/mnist",
    "zalando-datasets/fashion_mnist",
    "uoft-cs/cifar10",
    "uoft-cs/cifar100",
    "zh-plus/tiny-imagenet",
)
KNOWN_NAMES = ("digits", SHAPES, *HUB_NAMES)
LIMIT_MEMORY = 2 * 2**30
IMAGE_ENDINGS = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"})
TABLE_ENDINGS = frozenset({".parquet", ".arrow"})
TABLE_NAMES = frozenset({"metadata.csv", "metadata.jsonl"})  # labels beside images, in the Hugging Face layout
SPLIT_NAMES = {
    "train": ("train", "training"),
    "test": ("test", "testing", "eval", "evaluation"),
    "validation": ("validation", "valid", "val", "dev"),
}
"""What folders of splits are called, as the data libraries have it."""


@dataclass(frozen=True)
class DataSet:
    """A data set: its splits (None where it has none), their classes and their shape (C, H, W)."""

    name: str
    family: str
    train: ImageSource | None
    test: ImageSource | None
    class_names: tuple[str, ...]
    shape: tuple[int, int, int]


def load(
    name: str,
    *,
    size: int | None = None,
    channels: int | None = None,
    limit_memory: int = LIMIT_MEMORY,
    workers: int = 2,
    parts: Sequence[str] = ("train", "test"),
) -> DataSet:
    """The data set of that name.

    A name is, in this order: ``digits``; ``shapes`` or ``shapes:rho=0.9,train=3000,test=600,seed=0``; a folder that
    exists, either in the Hugging Face layout or of images; a function ``module:callable``; a hub name ``owner/name``.
    Any but ``shapes`` followed by ``:train=N``, ``:test=N`` or ``:train=N,test=N`` is the first N images of a split, in
    the order of the data set; followed by ``+patch`` or ``+tint``, such as ``digits+patch:rho=0.9,seed=0``, it has a
    confounder put on its images; it and ``shapes`` are ``Intervenable``.

    - Splits: ``train``; ``test``, else ``validation``, ``valid`` or ``val`` (also where no image of ``test`` has a
      label: each is -1). No split is made up: class folders alone are a train split, and ``test`` is None.
    - Image folder: ``train/CLASS/...`` and ``test/CLASS/...``, or ``CLASS/...``; classes in alphabetical order.
    - ``module:callable`` is called without arguments and returns split -> (images, labels) or (images, labels,
      class_names), images (N, C, H, W) uint8 or float in [0, 1]; or a ``datasets.DatasetDict``.
    - Images are grey (one channel) where all of them are, else RGB.

    Args:
        name: see above.
        size: bring the shorter side to this and cut out the centre square; without it all images have one size.
        channels: 1 refuses colour, 3 repeats grey three times; by default as the images are.
        limit_memory: decoded bytes, over all splits, above which images are decoded as they are needed.
        workers: processes that decode then.
        parts: splits that are wanted; of tables on disk only these are decoded, though all are checked.

    Raises:
        InputError: whatever is wrong with the name or the data, in one line.

    >>> data = load("digits")
    >>> data.family, len(data.train), len(data.test), data.shape
    ('digits', 1437, 360, (1, 16, 16))
    """
    require_whole("size", size, optional=True)
    require(channels in (None, 1, 3), "channels", channels, "1 (grey) or 3 (RGB)")
    require(limit_memory >= 0, "limit_memory", limit_memory, "at least 0 bytes")
    require(workers >= 0, "workers", workers, "at least 0")
    known = set(parts) <= {"train", "test"} and bool(parts)
    require(known, "parts", tuple(parts), "train, test or both")
    wanted = Wanted(size, channels, limit_memory, workers, tuple(parts))
    require(isinstance(name, str) and bool(name.strip()), "data", name, "a data name (deconfound list data)")
    parsed = parts_of(name)
    train, test = _generated(parsed, wanted) if parsed.base == SHAPES else _assembled(parsed, wanted)
    either = train or test
    assert either is not None  # assemble refuses data without an asked split
    shape, classes = either.shape, either.class_names
    return DataSet(name, family_of(name, shape, len(classes)), train, test, classes, shape)


def _generated(parsed: DataName, wanted: Wanted) -> Pair:
    """The splits of ``shapes``; nothing is drawn before it is asked for."""
    rule = "another data set: shapes have a confounder of their own"
    require(parsed.overlay is None, "data: confounder", f"{SHAPES}+{parsed.overlay}", rule)
    train, test = shapes(ShapesSettings.parse(parsed.settings))
    _, side, _ = train.shape
    require(wanted.size in (None, side), "size", wanted.size, f"{side}, the size that shapes are drawn at")
    require(wanted.channels in (None, 3), "channels", wanted.channels, "3 (RGB), as shapes have")
    return train, test


def _assembled(parsed: DataName, wanted: Wanted) -> Pair:
    """The splits that are read, with a confounder where the name asks for one."""
    name = parsed.base
    require(parts_of(name).overlay is None, "data: confounder", name, "one confounder, not two")
    if parsed.overlay is not None:
        added = Confounding.parse(parsed.overlay, parsed.settings)  # refused before anything is read
    counts = settings_of(parsed.limits, {"train": whole, "test": whole}, f"data: {name}")
    with nullcontext() if name == "digits" else quiet():  # the data libraries take a second to import
        train, test = assemble(name, _read(name), wanted)
    train, test = (_first(split, counts.get(role), name, role) for split, role in ((train, "train"), (test, "test")))
    if parsed.overlay is None:
        return train, test
    return _confounded(train, added, "train"), _confounded(test, added, "test")


def _first(source: ImageSource | None, count: int | None, name: str, role: str) -> ImageSource | None:
    """The first so many images of a split."""
    if source is None or count is None:
        return source
    require(1 <= count <= len(source), f"data: {name}: {role}", count, f"1 to the split's {len(source)} images")
    return source.subset(torch.arange(count))


def _confounded(source: ImageSource | None, added: Confounding, split: str) -> Confounded | None:
    return None if source is None else Confounded(cast(LabelledSource, source), added, split)


def _read(name: str) -> Mapping[str, Split]:
    """Splits by name, as tensors or tables."""
    if name == "digits":
        return digits()
    if exists(name):
        return _folder(Path(name).expanduser().resolve(), name)
    check_overlay(name)
    check_settings(name, KNOWN_NAMES)
    if is_spec(name):
        return _called(name)
    if re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", name):
        return reach(name, f"; nor is there a folder {name}")
    if re.search(r"[/\\]|^[.~]", name):
        raise InputError("data", name, "a folder that exists; there is none at this path")
    raise unknown_name("data", name, (*KNOWN_NAMES, "FOLDER", "OWNER/NAME", "MODULE:CALLABLE"))


def _folder(folder: Path, name: str) -> Mapping[str, Split]:
    """A folder's splits: tables where it has any, else images by class."""
    import datasets

    function = f"; {folder.stem}:NAME names a function in it" if folder.suffix == ".py" else ""
    require(folder.is_dir(), "data", name, f"a folder, not a file{function}")
    if any((folder / mark).is_file() for mark in ("dataset_dict.json", "state.json")):
        return _tables(lambda: datasets.load_from_disk(str(folder)), name)
    files = _visible(folder, "**/*")
    if not any(path.suffix.lower() in TABLE_ENDINGS or path.name.lower() in TABLE_NAMES for path in files):
        found = _image_folder(folder, name)
        if found:
            return found
        _check_classes(files, folder, name)
    return _tables(lambda: datasets.load_dataset(str(folder)), name)


def _check_classes(files: Sequence[Path], folder: Path, name: str) -> None:
    """Say what is missing where no class folder holds an image; what else is there is left to the data library.

    Raises:
        InputError: no file at all, or images in no folder of a class.
    """
    images = [path for path in files if path.suffix.lower() in IMAGE_ENDINGS]
    advice = f"images by class, each in the folder of its class, such as {name}/train/CLASS/0.png"
    if images:
        shown = f"{name} with {images[0].relative_to(folder)}"
        raise InputError("data", shown, f"{advice}; this one lies in none")
    rule = f"{advice}, or the Hugging Face layout; no file is in it"
    require(any(path.is_file() for path in files), "data", name, rule)


def _tables(read: Callable[[], Any], name: str) -> Mapping[str, Split]:
    import datasets

    try:
        found = read()
    except Exception as error:  # the readers behind the library raise what they like
        rule = f"a folder in the Hugging Face layout or of images by class ({reason(error)})"
        raise InputError("data", name, rule) from None
    return {"train": found} if isinstance(found, datasets.Dataset) else found


def _visible(folder: Path, pattern: str) -> list[Path]:
    """Files and folders in a fixed order, without hidden ones."""
    found = (path.relative_to(folder) for path in folder.glob(pattern))
    return [folder / path for path in sorted(found) if not any(part.startswith(".") for part in path.parts)]


def _image_folder(folder: Path, name: str) -> Mapping[str, Split]:
    """Splits of ``SPLIT/CLASS/**/image`` or, where no split folder is there, of ``CLASS/**/image``."""
    parts = {path.name.lower(): path for path in _visible(folder, "*") if path.is_dir()}
    splits = {}
    for split, aliases in SPLIT_NAMES.items():
        places = [path for alias, path in parts.items() if alias in aliases]
        rule = f"one folder for {split}, called {' or '.join(aliases)}"
        require(len(places) <= 1, f"data: {name}", " and ".join(path.name for path in places), rule)
        if places:
            splits[split] = places[0]
    splits = splits or {"train": folder}
    files = {split: _by_class(path) for split, path in splits.items()}
    if not any(files.values()):
        return {}
    first = "train" if "train" in files else next(iter(files))
    classes = list(files[first])
    for split, found in files.items():
        require(bool(found), f"data: {name}: {split}", "no class folder with images", f"{split}/CLASS/image files")
        for label in found:
            rule = f"one of the classes of {first}: {', '.join(classes[:20])}"
            require(label in classes, f"data: {name}: {split} class", label, rule)
    return {split: _as_table(found, classes) for split, found in files.items()}


def _by_class(folder: Path) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for path in _visible(folder, "*/**/*"):
        if path.suffix.lower() in IMAGE_ENDINGS and path.is_file():
            found.setdefault(path.relative_to(folder).parts[0], []).append(str(path))
    return found


def _as_table(files: Mapping[str, list[str]], classes: list[str]) -> datasets.Dataset:
    import datasets

    rows = [(path, classes.index(label)) for label, paths in files.items() for path in paths]
    features = datasets.Features(image=datasets.Image(decode=False), label=datasets.ClassLabel(names=classes))
    columns = {"image": [{"bytes": None, "path": path} for path, _ in rows], "label": [label for _, label in rows]}
    return datasets.Dataset.from_dict(columns, features=features)


def _called(name: str) -> Mapping[str, Split]:
    """What the function returns."""
    function = imported(name, "data")
    try:
        with working_folder_importable():  # it may import more
            found = function()
    except InputError:
        raise
    except Exception as error:
        rule = f"a function that can be called without arguments ({reason(error)})"
        raise InputError("data", name, rule) from error
    rule = "a function that returns a mapping from split to (images, labels) or to a table"
    require(isinstance(found, Mapping) and bool(found), "data", f"{name} -> {type(found).__name__}", rule)
    return found
