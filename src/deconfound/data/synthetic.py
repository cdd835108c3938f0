"""Shapes with a confounder, generated as they are needed.

Shapes: N images (N, 3, 64, 64), labels, confounder and index (N,) int64; B examples of a batch.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from deconfound.core.streams import Streams
from deconfound.core.types import Batch
from deconfound.data.confounding import INTERVENTIONS, Done, check_confounding, confounder, other_shape
from deconfound.data.drawing import CLASS_NAMES, SIDE, draw, placed
from deconfound.data.memory import as_positions, digest_of
from deconfound.data.naming import SHAPES, probability, settings_of, whole
from deconfound.errors import require, require_whole

RHO = 0.917  # Tang et al. 2021
CLASSES = len(CLASS_NAMES)
LARGEST = 10_000_000  # images of a split: their labels are held
CHUNK = 256  # images drawn at a time
SAMPLE = 64  # images that enter the digest


@dataclass(frozen=True, kw_only=True)
class ShapesSettings:
    """``rho`` is the probability that the colour agrees with the class; ``train`` and ``test`` are numbers of images.

    Raises:
        InputError: rho outside [0, 1], a split without images or with more than ten million, a negative seed.
    """

    rho: float = RHO
    train: int = 3000
    test: int = 600
    seed: int = 0

    def __post_init__(self) -> None:
        check_confounding(self.rho, CLASSES, "data: shapes")
        for split in ("train", "test"):
            count = getattr(self, split)
            require(1 <= count <= LARGEST, f"data: shapes: {split}", count, f"1 to {LARGEST} images")
        require_whole("data: shapes: seed", self.seed, 0)

    @classmethod
    def parse(cls, text: str | None) -> ShapesSettings:
        """From the settings of a data name.

        >>> ShapesSettings.parse("rho=1/3,seed=5").seed
        5
        """
        kinds = {"rho": probability, "train": whole, "test": whole, "seed": whole}
        return cls(**settings_of(text, kinds, "data: shapes"))

    def __str__(self) -> str:
        """The data name, with what is not the default.

        >>> str(ShapesSettings(rho=0.9)), str(ShapesSettings())
        ('shapes:rho=0.9', 'shapes')
        """
        usual = ((field.name, field.default, getattr(self, field.name)) for field in fields(self))
        words = [f"{key}={f'{now:.6g}' if key == 'rho' else now}" for key, before, now in usual if now != before]
        return f"{SHAPES}:{','.join(words)}" if words else SHAPES


def shapes(settings: ShapesSettings | None = None) -> tuple[Shapes, Shapes]:
    """Train and test split."""
    settings = settings or ShapesSettings()
    return Shapes("train", settings), Shapes("test", settings)


class Shapes:
    """Dark discs, squares and triangles on bright patches whose colour agrees with the class with probability rho.

    The shape is the cause of the label, the colour its confounder. Image i of a split follows from (seed, split, i)
    alone: each of every three consecutive ones shows another shape; colour, radius, position, patches and noise have
    streams of their own. ``do`` gives the same images with one of the variables set, bit for bit the same elsewhere.

    Args:
        split: ``train`` or ``test``; their images have nothing in common.
        settings: see there.
        index: (N,) int64, images of the split; all by default.
        done: variables that are set.

    Raises:
        InputError: no image, or one outside the split.

    Source: the toy set of Tang et al. 2021 (arXiv 2106.09534). Departures: the colour is one variable per image, so
    that whoever reads it alone is right with probability rho; levels of colours and noise are our own.

    >>> split = Shapes("test")
    >>> batch = next(split.batches([torch.tensor([2, 0])]))
    >>> tuple(batch.images.shape), sorted(split.labels[:3].tolist())
    ((2, 3, 64, 64), [0, 1, 2])
    """

    def __init__(
        self,
        split: str,
        settings: ShapesSettings | None = None,
        *,
        index: Tensor | None = None,
        done: Done | None = None,
    ) -> None:
        self._settings, self._done = settings or ShapesSettings(), done or Done()
        require(split in ("train", "test"), "data: shapes: split", split, "train or test")
        self._split, count = split, self._settings.train if split == "train" else self._settings.test
        self._index = torch.arange(count) if index is None else as_positions(index, count)
        require(len(self._index) > 0, f"{self.name}: images", "no image", "at least one image")
        streams = self._streams(self._index)
        self._observed = _balanced(self._index, self._settings.seed, split)
        self._labels = self._observed if self._done.shape is None else other_shape(self._observed, streams, CLASSES)
        self._confounder = confounder(self._observed, streams, self._settings.rho, CLASSES, self._done.confounder)
        self._digest: str | None = None

    @property
    def name(self) -> str:
        """What the split is called, such as ``shapes:rho=0.9[test]``."""
        return f"{self._settings}[{self._split}]{self._done}"

    @property
    def class_names(self) -> tuple[str, ...]:
        """Disc, square, triangle."""
        return CLASS_NAMES

    @property
    def shape(self) -> tuple[int, int, int]:
        """(3, 64, 64)."""
        return 3, SIDE, SIDE

    @property
    def labels(self) -> Tensor:
        """The shape that is drawn, (N,) int64."""
        return self._labels

    @property
    def confounder(self) -> Tensor:
        """The class whose colour the patches have, (N,) int64."""
        return self._confounder

    @property
    def index(self) -> Tensor:
        """Places in the whole split, (N,) int64."""
        return self._index

    def __len__(self) -> int:
        return len(self._index)

    def batches(self, plan: Iterable[Tensor], device: torch.device | str = "cpu") -> Iterator[Batch]:
        """One batch per tensor of positions (B,) in [0, N), in order, on the device.

        Raises:
            InputError: a position outside the split.
        """
        for positions in plan:
            wanted = as_positions(positions, len(self))
            images = self._drawn(wanted).to(device).to(torch.float32).div_(255)
            yield Batch(images, self._labels[wanted].to(device), self._index[wanted].to(device))

    def subset(self, positions: Tensor | Sequence[int]) -> Shapes:
        """The images at these positions, in this order, with their original indices.

        Raises:
            InputError: no position, or one outside the split.
        """
        index = self._index[as_positions(positions, len(self))]
        return Shapes(self._split, self._settings, index=index, done=self._done)

    def interventions(self) -> Mapping[str, tuple[str, ...]]:
        """Variables that can be set, and their values."""
        return INTERVENTIONS

    def do(self, variable: str, value: str) -> Shapes:
        """The same images with a variable set: ``confounder`` to ``random`` or ``other``, ``shape`` to ``other``.

        ``confounder`` recolours the patches, see ``confounding.confounder``. ``shape`` draws another shape of the same
        radius in the same place, and the label follows it, being its effect; the colour stays. What a value is does
        not depend on the other variables set, so the order does not matter.

        Raises:
            InputError: a variable or a value that does not exist.
        """
        return Shapes(self._split, self._settings, index=self._index, done=self._done.and_do(variable, value))

    @property
    def rho(self) -> float:
        """Probability that the colour agrees with the class."""
        return self._settings.rho

    @property
    def mark(self) -> str:
        """What carries the confounder."""
        return "the colour of the background, all of the image but the shape"

    def at_rho(self, rho: float) -> Shapes:
        """The same images with another probability: only colours change, and the more agree the larger it is.

        Raises:
            InputError: rho outside [0, 1].
        """
        settings = replace(self._settings, rho=rho)
        return Shapes(self._split, settings, index=self._index, done=self._done)

    def digest(self) -> str:
        """sha256 over the settings, the images' places and variables, and the pixels of 64 images spread evenly."""
        if self._digest is None:
            count = min(len(self), SAMPLE)
            spread = torch.arange(count) * (len(self) - 1) // max(count - 1, 1)
            about = f"shapes {self._split} rho={self._settings.rho!r} seed={self._settings.seed}{self._done}"
            tensors = (self._index, self._labels, self._confounder, self._drawn(spread))
            self._digest = digest_of(about, CLASS_NAMES, *tensors)
        return self._digest

    def _streams(self, index: Tensor) -> Streams:
        return Streams(self._settings.seed, index).fold("shapes", self._split)

    def _drawn(self, positions: Tensor) -> Tensor:
        """Pixels (B, 3, 64, 64) uint8, a part at a time: the numbers behind a pixel take many times its memory."""
        found = torch.empty(len(positions), *self.shape, dtype=torch.uint8)
        for start in range(0, len(positions), CHUNK):
            part = positions[start : start + CHUNK]
            scene = placed(self._labels[part], self._confounder[part], self._streams(self._index[part]))
            found[start : start + CHUNK] = draw(scene)
        return found


def _balanced(index: Tensor, seed: int, split: str) -> Tensor:
    """Of every K consecutive examples one of each class, in an order that differs from block to block."""
    block = torch.div(index, CLASSES, rounding_mode="floor")
    draws = Streams(seed, block).fold("shapes", split, "shape").uniform((CLASSES,), torch.float64)
    return draws.argsort(dim=1).gather(1, (index % CLASSES)[:, None]).squeeze(1)
