"""Real images with a known confounder put on them.

Shapes: N images (N, C, H, W), labels, confounder and index (N,) int64; B examples of a batch.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import tee
from typing import Protocol

import torch
from torch import Tensor

from deconfound.core.protocols import ImageSource
from deconfound.core.streams import Streams
from deconfound.core.types import Batch
from deconfound.data.confounding import INTERVENTIONS, Done, check_confounding, confounder
from deconfound.data.memory import as_positions, digest_of
from deconfound.data.naming import probability, settings_of, whole
from deconfound.data.overlays import overlay
from deconfound.errors import require, require_whole


class LabelledSource(ImageSource, Protocol):
    """A source whose labels and places are known without decoding an image."""

    @property
    def labels(self) -> Tensor:
        """(N,) int64."""
        ...

    @property
    def index(self) -> Tensor:
        """Places in the original data set, (N,) int64."""
        ...


@dataclass(frozen=True, kw_only=True)
class Confounding:
    """What is put on the images: ``kind`` (patch, tint), agreeing with the class with probability ``rho``.

    Raises:
        InputError: rho outside [0, 1], a negative seed.
    """

    kind: str
    rho: float = 0.9
    seed: int = 0

    def __post_init__(self) -> None:
        check_confounding(self.rho, 2, f"data: {self.kind}")
        require_whole(f"data: {self.kind}: seed", self.seed, 0)

    @classmethod
    def parse(cls, kind: str, text: str | None) -> Confounding:
        """From the settings of a data name.

        >>> str(Confounding.parse("tint", "rho=1/2"))
        '+tint:rho=0.5'
        """
        return cls(kind=kind, **settings_of(text, {"rho": probability, "seed": whole}, f"data: {kind}"))

    def __str__(self) -> str:
        """As in a data name: rho always, the seed where it is not 0."""
        return f"+{self.kind}:rho={self.rho:.6g}" + (f",seed={self.seed}" if self.seed else "")


class Confounded:
    """A source whose images carry a mark that agrees with the class with probability rho.

    What the picture shows is the cause of the label, the mark its confounder. The mark follows from (seed, split,
    index of the example) alone. ``do`` gives the same examples with one of the two set, bit for bit the same elsewhere.

    Args:
        source: the images, with all of their split.
        confounding: what is put on them.
        split: ``train`` or ``test``, so that the marks of the two are drawn apart.
        positions: (N,) int64, the examples of ``source`` that this one holds; all by default.
        done: variables that are set.

    Raises:
        InputError: fewer than two classes, an overlay that does not fit the images, no example.

    >>> from deconfound.data.memory import MemoryImages
    >>> grey = MemoryImages(torch.full((4, 1, 16, 16), 0.5), torch.tensor([0, 1, 0, 1]), ("a", "b"), "grey[test]")
    >>> marked = Confounded(grey, Confounding(kind="tint", rho=1.0), "test")
    >>> [float(x) for x in next(marked.batches([torch.tensor([0, 1])])).images[:, 0, 0, 0]]
    [0.375, 0.625]
    >>> marked.do("confounder", "other").name
    'grey+tint:rho=1[test] do(confounder=other)'
    """

    def __init__(
        self,
        source: LabelledSource,
        confounding: Confounding,
        split: str,
        *,
        positions: Tensor | None = None,
        done: Done | None = None,
    ) -> None:
        self._source, self._confounding, self._split, self._done = source, confounding, split, done or Done()
        self._classes = len(source.class_names)
        check_confounding(confounding.rho, self._classes, f"data: {confounding.kind}")
        self._overlay = overlay(confounding.kind, self._classes, source.shape)
        every = torch.arange(len(source))
        self._positions = every if positions is None else as_positions(positions, len(source))
        require(len(self._positions) > 0, f"{self.name}: images", "no image", "at least one image")
        self._index, observed = source.index[self._positions], source.labels[self._positions]
        streams = self._streams(self._index)
        self._confounder = confounder(observed, streams, confounding.rho, self._classes, self._done.confounder)
        self._shown = self._positions
        if self._done.shape is not None:
            self._shown = _of_another_class(source.labels, observed, streams)
        self._digest: str | None = None

    @property
    def name(self) -> str:
        """What the split is called, such as ``mnist+patch:rho=0.9[test]``."""
        name, bracket, split = self._source.name.partition("[")
        return f"{name}{self._confounding}{bracket}{split}{self._done}"

    @property
    def class_names(self) -> tuple[str, ...]:
        """One name per class."""
        return self._source.class_names

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        return self._source.shape

    @property
    def labels(self) -> Tensor:
        """The class of what is shown, (N,) int64."""
        return self._source.labels[self._shown]

    @property
    def confounder(self) -> Tensor:
        """The class whose mark the image carries, (N,) int64."""
        return self._confounder

    @property
    def index(self) -> Tensor:
        """Places in the original data set, (N,) int64."""
        return self._index

    def __len__(self) -> int:
        return len(self._positions)

    def batches(self, plan: Iterable[Tensor], device: torch.device | str = "cpu") -> Iterator[Batch]:
        """One batch per tensor of positions (B,) in [0, N), in order, on the device.

        Raises:
            InputError: a position outside the split.
        """
        ours, theirs = tee(as_positions(positions, len(self)) for positions in plan)
        shown = self._source.batches((self._shown[positions] for positions in theirs), device)
        for positions, batch in zip(ours, shown, strict=True):
            index, classes = self._index[positions].to(device), self._confounder[positions].to(device)
            yield Batch(self._overlay(batch.images, classes, self._streams(index)), batch.labels, index)

    def subset(self, positions: Tensor | Sequence[int]) -> Confounded:
        """The examples at these positions, in this order, with their original indices.

        Raises:
            InputError: no position, or one outside the split.
        """
        return self._with(self._positions[as_positions(positions, len(self))], self._done)

    def interventions(self) -> Mapping[str, tuple[str, ...]]:
        """Variables that can be set, and their values."""
        return INTERVENTIONS

    def do(self, variable: str, value: str) -> Confounded:
        """The same examples with a variable set: ``confounder`` to ``random`` or ``other``, ``shape`` to ``other``.

        ``confounder`` changes the mark, see ``confounding.confounder``; it stays in its place. ``shape`` shows an image
        of another class, all of the whole split alike, and the label is that image's; the mark stays. What a value is
        does not depend on the other variables set, so the order does not matter.

        Raises:
            InputError: a variable or a value that does not exist.
        """
        return self._with(self._positions, self._done.and_do(variable, value))

    @property
    def rho(self) -> float:
        """Probability that the mark agrees with the class."""
        return self._confounding.rho

    @property
    def mark(self) -> str:
        """What carries the confounder, and how much of the image it takes."""
        return self._overlay.about

    def at_rho(self, rho: float) -> Confounded:
        """The same examples with another probability: only marks change, and the more agree the larger it is.

        Raises:
            InputError: rho outside [0, 1].
        """
        confounding = replace(self._confounding, rho=rho)
        return Confounded(self._source, confounding, self._split, positions=self._positions, done=self._done)

    def digest(self) -> str:
        """sha256 over the digest of the whole source, what is put on it, and the examples' places and marks."""
        if self._digest is None:
            about = (
                f"{self._confounding.kind} {self._confounding.rho!r} {self._confounding.seed} {self._split}{self._done}"
            )
            tensors = (self._index, self._shown, self._confounder)
            self._digest = digest_of(about, self._source.digest(), *tensors)
        return self._digest

    def _with(self, positions: Tensor, done: Done) -> Confounded:
        return Confounded(self._source, self._confounding, self._split, positions=positions, done=done)

    def _streams(self, index: Tensor) -> Streams:
        return Streams(self._confounding.seed, index).fold("confounded", self._confounding.kind, self._split)


def _of_another_class(labels: Tensor, own: Tensor, streams: Streams) -> Tensor:
    """A position with a label other than one's own, uniform over all of them, (B,) int64.

    In the order of labels one's own class is a block: draw among the rest, and step over it.

    Raises:
        InputError: a split of one class.
    """
    order, counts = labels.argsort(stable=True), labels.bincount(minlength=int(labels.max()) + 1)
    others = len(labels) - counts[own]
    require(bool((others > 0).all()), "do: shape", "images of one class only", "images of at least two classes")
    drawn = (streams.fold("other shape").uniform(dtype=torch.float64) * others).floor().to(torch.int64)
    first = (counts.cumsum(0) - counts)[own]
    return order[drawn + counts[own] * (drawn >= first)]
