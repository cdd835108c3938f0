"""A split held in memory as one tensor.

Shapes: N images (N, C, H, W) uint8 or float32, labels and index (N,) int64; B examples of a batch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from deconfound.core.checks import check_images, check_labels
from deconfound.core.types import Batch
from deconfound.errors import InputError, require


def as_positions(positions: Tensor | Sequence[int], count: int) -> Tensor:
    """Positions as an int64 tensor (B,) on the processor.

    Raises:
        InputError: another type or rank, or a position outside [0, count).
    """
    rule = f"a one-dimensional int64 tensor of positions within 0..{count - 1}"
    found = positions if isinstance(positions, Tensor) else torch.tensor(list(positions), dtype=torch.int64)
    require(found.ndim == 1 and found.dtype == torch.int64, "positions", (found.dtype, tuple(found.shape)), rule)
    found = found.cpu()
    if len(found):
        low, high = (int(v) for v in torch.aminmax(found))
        require(low >= 0 and high < count, "positions", low if low < 0 else high, rule)
    return found


def digest_of(*parts: bytes | str | Tensor | Sequence[str]) -> str:
    """sha256 over the parts, each with its kind and length, so that no two lists of parts run together."""
    state = hashlib.sha256()
    for part in parts:
        if isinstance(part, Tensor):
            array: Any = part.contiguous().cpu().numpy()
            data = memoryview(array).cast("B") if part.numel() else memoryview(b"")
            kind = f"{part.dtype}{tuple(part.shape)}"
        elif isinstance(part, (bytes, str)):
            data, kind = memoryview(part.encode() if isinstance(part, str) else part), type(part).__name__
        else:
            data, kind = memoryview("\0".join(part).encode()), f"names{len(part)}"
        state.update(f"{kind}:{data.nbytes};".encode())
        state.update(data)
    return state.hexdigest()


class MemoryImages:
    """A split as one tensor; images come out as float32 in [0, 1], on the device that is asked for.

    Args:
        images: (N, C, H, W), uint8 (served as ``images / 255``) or float in [0, 1] (kept as float32).
        labels: (N,) int64 within the classes.
        class_names: one name per class.
        name: what the split is called in messages and records.
        index: (N,) int64, the places in the original data set; 0..N-1 by default.

    Raises:
        InputError: wrong types or shapes, no image, values outside [0, 1], labels outside the classes.

    >>> split = MemoryImages(torch.full((3, 1, 2, 2), 255, dtype=torch.uint8), torch.tensor([0, 1, 0]), ("a", "b"), "x")
    >>> batch = next(split.batches([torch.tensor([2, 1])]))
    >>> float(batch.images.max()), batch.labels.tolist(), batch.index.tolist()
    (1.0, [0, 1], [2, 1])
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        class_names: Sequence[str],
        name: str,
        index: Tensor | None = None,
    ) -> None:
        self._images = _checked(images, name)
        check_labels(labels, len(class_names), count=len(images), field=f"{name}: labels")
        self._class_names = tuple(class_names)
        self._name = name
        own = torch.arange(len(images)) if index is None else index.to(torch.int64)
        self._labels, self._index = labels.to(images.device), own.to(images.device)
        require(self._index.shape == labels.shape, f"{name}: index", tuple(self._index.shape), "one index per image")
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
        _, channels, height, width = self._images.shape
        return channels, height, width

    @property
    def images(self) -> Tensor:
        """The stored images (N, C, H, W), uint8 or float32."""
        return self._images

    @property
    def labels(self) -> Tensor:
        """(N,) int64."""
        return self._labels

    @property
    def index(self) -> Tensor:
        """Places in the original data set, (N,) int64."""
        return self._index

    def __len__(self) -> int:
        return len(self._labels)

    def batches(self, plan: Iterable[Tensor], device: torch.device | str = "cpu") -> Iterator[Batch]:
        """One batch per tensor of positions (B,) in [0, N), in order, on the device.

        Raises:
            InputError: a position outside the split.
        """
        for positions in plan:
            # Bytes are moved and made floats there: a quarter of the traffic.
            wanted = as_positions(positions, len(self)).to(self._images.device)
            images = self._images.index_select(0, wanted).to(device)
            if images.dtype == torch.uint8:
                images = images.to(torch.float32).div_(255)
            yield Batch(images, self._labels[wanted].to(device), self._index[wanted].to(device))

    def subset(self, positions: Tensor | Sequence[int]) -> MemoryImages:
        """The images at these positions, in this order, with their original indices.

        Raises:
            InputError: no position, or one outside the split.
        """
        wanted = as_positions(positions, len(self)).to(self._images.device)
        images, labels, index = self._images[wanted], self._labels[wanted], self._index[wanted]
        return MemoryImages(images, labels, self._class_names, self._name, index)

    def digest(self) -> str:
        """sha256 over shape, pixels, labels and class names; neither the name nor the original indices enter."""
        if self._digest is None:
            self._digest = digest_of("images", self._images, self._labels, self._class_names)
        return self._digest


def _checked(images: Tensor, name: str) -> Tensor:
    field = f"{name}: images"
    rule = "a uint8 tensor, or a float tensor with values in [0, 1], of shape (N, C, H, W)"
    if not isinstance(images, Tensor) or not (images.dtype == torch.uint8 or images.is_floating_point()):
        kind = str(images.dtype) if isinstance(images, Tensor) else type(images).__name__
        raise InputError(field, kind.replace("torch.", ""), rule)
    require(images.ndim == 4, field, tuple(images.shape), rule)
    require(len(images) > 0, field, "no image", "at least one image")
    require(images.numel() > 0, field, tuple(images.shape), "images of at least one pixel")
    if images.dtype == torch.uint8:
        return images
    check_images(images, field=field)
    return images.to(torch.float32)
