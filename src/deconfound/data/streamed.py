"""A split too large for memory: images are decoded when they are asked for, in worker processes.

Shapes: N images, served as (B, C, H, W) float32; labels and index (N,) int64.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from deconfound.core.checks import check_labels
from deconfound.core.types import Batch
from deconfound.data.decode import decode, fit_channels, same_size
from deconfound.data.memory import as_positions, digest_of
from deconfound.errors import InputError, require

DIGEST_SAMPLE = 1024  # images whose bytes enter the digest; of the others the encoded length does


class EncodedImages(Protocol):
    """Encoded images by row: what ``StreamedImages`` reads from. Must survive being sent to another process."""

    def __len__(self) -> int: ...

    def read(self, rows: Sequence[int]) -> list[tuple[bytes, str]]:
        """The file contents of these rows, each with the place it came from."""
        ...

    def lengths(self) -> Tensor:
        """Encoded bytes of every row, (N,) int64, without reading them."""
        ...


class Form(NamedTuple):
    """What decoding has to yield: ``shape`` (C, H, W), and the ``size`` to resize and crop to, if any."""

    shape: tuple[int, int, int]
    size: int | None


class _Piece(NamedTuple):
    images: Tensor
    positions: Tensor


class _Decoder(Dataset[Any]):
    """Positions -> images (B, C, H, W) uint8; an error comes back as a value, for processes wrap what is raised."""

    def __init__(self, encoded: EncodedImages, rows: Tensor, form: Form) -> None:
        self.encoded, self.rows, self.form = encoded, rows, form

    def __len__(self) -> int:
        return len(self.rows)

    def __getitems__(self, positions: list[int]) -> _Piece | InputError:
        channels, height, width = self.form.shape
        found = np.empty((len(positions), *self.form.shape), dtype=np.uint8)
        wanted = torch.tensor(positions, dtype=torch.int64)
        try:
            for slot, (data, place) in enumerate(self.encoded.read(self.rows[wanted].tolist())):
                pixels = decode(data, place, self.form.size)
                same_size(pixels, place, height, width, "the other images")
                found[slot] = fit_channels(pixels, channels, place)
        except InputError as error:
            return error
        return _Piece(torch.from_numpy(found), wanted)


class _Plan:
    """The batch sampler: each tensor of positions as the list that workers are sent."""

    def __init__(self, plan: Iterable[Tensor], count: int) -> None:
        self.plan, self.count = plan, count

    def __iter__(self) -> Iterator[list[int]]:
        return (as_positions(positions, self.count).tolist() for positions in self.plan)


def _as_it_is(piece: Any) -> Any:
    return piece


class StreamedImages:
    """A split whose images stay encoded until a batch asks for them; equal to ``MemoryImages`` of the same files.

    Args:
        encoded: the encoded images.
        labels: (N,) int64, one per row.
        class_names: one name per class.
        name: what the split is called in messages and records.
        form: shape and size of a decoded image.
        workers: processes that decode; 0 decodes in this one. More than the machine has cores are not started.
        index: rows of this split, (M,) int64, which are the original indices; all by default.

    Raises:
        InputError: no image, labels outside the classes or not one per row, negative ``workers``.
    """

    def __init__(
        self,
        encoded: EncodedImages,
        labels: Tensor,
        class_names: Sequence[str],
        name: str,
        form: Form,
        *,
        workers: int = 2,
        index: Tensor | None = None,
    ) -> None:
        require(len(encoded) > 0, f"{name}: images", "no image", "at least one image")
        require(workers >= 0, "workers", workers, "at least 0")
        check_labels(labels, len(class_names), count=len(encoded), field=f"{name}: labels")
        self._encoded, self._all_labels, self._form = encoded, labels, form
        self._class_names, self._name, self._workers = tuple(class_names), name, workers
        self._index = torch.arange(len(encoded)) if index is None else as_positions(index, len(encoded))
        require(len(self._index) > 0, f"{name}: images", "no image", "at least one image")
        self._digest: str | None = None

    @property
    def name(self) -> str:
        """What the split is called."""
        return self._name

    @property
    def class_names(self) -> tuple[str, ...]:
        """One name per class."""
        return self._class_names

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        return self._form.shape

    @property
    def labels(self) -> Tensor:
        """(N,) int64."""
        return self._all_labels[self._index]

    @property
    def index(self) -> Tensor:
        """Places in the original data set, (N,) int64."""
        return self._index

    def __len__(self) -> int:
        return len(self._index)

    def batches(self, plan: Iterable[Tensor], device: torch.device | str = "cpu") -> Iterator[Batch]:
        """One batch per tensor of positions (B,) in [0, N), in order, on the device.

        Workers decode ahead; what they return is put back in the order of the plan.

        Raises:
            InputError: a position outside the split, or an image that cannot be decoded or has another size.
        """
        device = torch.device(device)
        for piece in _started(self._loader(plan, device)):
            if isinstance(piece, InputError):
                raise piece
            index = self._index[piece.positions]
            images = piece.images.to(device, non_blocking=True).to(torch.float32).div_(255)
            yield Batch(images, self._all_labels[index].to(device), index.to(device))

    def _loader(self, plan: Iterable[Tensor], device: torch.device) -> DataLoader[Any]:
        workers = min(self._workers, _cores())
        return DataLoader(
            _Decoder(self._encoded, self._index, self._form),
            batch_sampler=_Plan(plan, len(self)),
            num_workers=workers,
            collate_fn=_as_it_is,
            pin_memory=device.type == "cuda",
            # A generator of its own: the loader would otherwise draw its base seed from the global one.
            generator=torch.Generator(),
            # Fork needs no importable main module; elsewhere it is unsafe or missing.
            multiprocessing_context="fork" if workers and sys.platform == "linux" else None,
        )

    def subset(self, positions: Tensor | Sequence[int]) -> StreamedImages:
        """The images at these positions, in this order, with their original indices.

        Raises:
            InputError: no position, or one outside the split.
        """
        index = self._index[as_positions(positions, len(self))]
        return StreamedImages(
            self._encoded,
            self._all_labels,
            self._class_names,
            self._name,
            self._form,
            workers=self._workers,
            index=index,
        )

    def digest(self) -> str:
        """sha256 over shape, labels, class names, all encoded lengths, and the bytes of 1024 images spread evenly.

        It decodes nothing, and depends on what the files hold, not on where they lie. It differs from the digest of
        the same images in memory, which is taken over pixels.
        """
        if self._digest is None:
            count = min(len(self), DIGEST_SAMPLE)
            spread = torch.arange(count) * (len(self) - 1) // max(count - 1, 1)
            sample = [data for data, _ in self._encoded.read(self._index[spread].tolist())]
            lengths = self._encoded.lengths()[self._index]
            form = f"streamed {self._form.shape} {self._form.size}"
            self._digest = digest_of(form, lengths, self.labels, self._class_names, *sample)
        return self._digest


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _started(loader: DataLoader[Any]) -> Iterator[Any]:
    with warnings.catch_warnings():
        # Python 3.12 warns of fork in a process with threads; the workers only decode and take no lock of ours.
        warnings.simplefilter("ignore", DeprecationWarning)
        return iter(loader)
