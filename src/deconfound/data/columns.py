"""What a table of the ``datasets`` library holds: which column is the image, which the label, and its classes.

Shapes: N rows, labels (N,) int64.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from deconfound.errors import InputError, require

if TYPE_CHECKING:
    import datasets

# In order of preference; a column of the right type under another name is taken where it is the only one.
IMAGE_NAMES = ("image", "img")
LABEL_NAMES = ("label", "labels", "fine_label")


def find_image(features: Mapping[str, Any], source: str) -> str:
    """The image column: by type, ``image`` or ``img`` first.

    Raises:
        InputError: no column of images, or several and none of them called so.
    """
    import datasets

    found = [name for name, kind in features.items() if isinstance(kind, datasets.Image) or _is_encoded(kind)]
    rule = f"a column of type Image in {source}, called {' or '.join(IMAGE_NAMES)} where there are several"
    return _only(found, IMAGE_NAMES, "image column", list(features), rule)


def _is_encoded(kind: Any) -> bool:
    """What an image column is called when the file does not say that it is one."""
    return isinstance(kind, Mapping) and set(kind) == {"bytes", "path"}


def find_label(features: Mapping[str, Any], source: str) -> str:
    """The label column: a ClassLabel, or integers under one of the usual names, which comes first where both are there.

    Raises:
        InputError: no such column, or several and none of them called so.
    """
    import datasets

    counted = {name for name, kind in features.items() if name in LABEL_NAMES and _is_integer(kind)}
    found = [name for name, kind in features.items() if name in counted or isinstance(kind, datasets.ClassLabel)]
    rule = f"a ClassLabel or integer column in {source}, called {', '.join(LABEL_NAMES)} where there are several"
    return _only(found, LABEL_NAMES, "label column", list(features), rule)


def _is_integer(kind: Any) -> bool:
    return str(getattr(kind, "dtype", "")).startswith(("int", "uint"))


def _only(found: list[str], preferred: tuple[str, ...], field: str, columns: list[str], rule: str) -> str:
    for name in preferred:
        if name in found:
            return name
    if len(found) != 1:
        raise InputError(field, found or columns, rule)
    return found[0]


def read_labels(table: datasets.Dataset, column: str, source: str) -> Tensor:
    """The labels of a split, (N,) int64, as they are.

    Raises:
        InputError: a row without a label.
    """
    values = table.select_columns([column]).with_format("arrow")[:].column(0)
    if values.null_count:
        row = next(row for row, value in enumerate(values) if not value.is_valid)
        raise InputError(f"{source} labels", f"nothing in row {row}", "a label for every image")
    return torch.from_numpy(np.array(values.to_numpy(), dtype=np.int64))


def check_range(labels: Tensor, classes: int, source: str) -> None:
    """Labels lie within 0..K-1.

    Raises:
        InputError: naming the first row that does not.
    """
    outside = (labels < 0) | (labels >= classes)
    if outside.any():
        row = int(outside.nonzero()[0])
        value = f"{int(labels[row])} in row {row}"
        hint = "; -1 is how unlabelled images are published, use a split with labels" if labels[row] == -1 else ""
        raise InputError(f"{source} labels", value, f"labels within 0..{classes - 1}{hint}")


def class_names_of(kinds: Mapping[str, Any], labels: Mapping[str, Tensor], source: str) -> tuple[str, ...]:
    """The classes of all splits: the names that a ClassLabel gives, or "0".."K-1" with K - 1 the largest label.

    Raises:
        InputError: splits that name different classes.
    """
    stated = {split: tuple(kind.names) for split, kind in kinds.items() if getattr(kind, "names", None)}
    if not stated:
        return numbered(labels.values())
    first = next(iter(stated))
    for split, names in stated.items():
        rule = f"the same classes in the splits {first} and {split} of {source}"
        require(names == stated[first], "class names", _difference(stated[first], names), rule)
    return stated[first]


def _difference(first: tuple[str, ...], second: tuple[str, ...]) -> str:
    odd = sorted(set(first) ^ set(second))
    return f"{odd[0]!r} in one of them only" if odd else "another order"


def numbered(labels: Iterable[Tensor]) -> tuple[str, ...]:
    """Names "0".."K-1" for labels 0..K-1.

    >>> numbered([torch.tensor([0, 2]), torch.tensor([1])])
    ('0', '1', '2')
    """
    largest = max((int(part.max()) for part in labels if len(part)), default=0)
    return tuple(str(label) for label in range(max(largest, 0) + 1))


class EncodedRows:
    """The image column of a table, still encoded; files that the table only points to are opened when asked for.

    Args:
        table: a split whose ``column`` holds images.
        column: its name.
        source: how to call the split in messages.
    """

    def __init__(self, table: datasets.Dataset, column: str, source: str) -> None:
        import datasets

        plain = table.with_format(None).select_columns([column])
        self._table = plain.cast_column(column, datasets.Image(decode=False))
        self._column, self._source = column, source

    def __len__(self) -> int:
        return len(self._table)

    def read(self, rows: Any) -> list[tuple[bytes, str]]:
        """The file contents of these rows, each with the place it came from.

        Raises:
            InputError: a row without an image, or a file that cannot be read.
        """
        cells = self._table[list(rows)][self._column]
        return [self._content(row, cell) for row, cell in zip(rows, cells, strict=True)]

    def _content(self, row: int, cell: dict[str, Any] | None) -> tuple[bytes, str]:
        place = f"{self._source} row {row}"
        path = cell.get("path") if cell else None
        if cell and cell.get("bytes"):
            return cell["bytes"], f"{place} ({Path(path).name})" if path else place
        require(bool(path), "image", place, "an image in every row")
        try:
            return Path(str(path)).read_bytes(), str(path)
        except OSError as error:
            raise InputError("image", str(path), f"a readable file ({error.strerror})") from None

    def lengths(self) -> Tensor:
        """Encoded bytes of every row, (N,) int64; those of files are their sizes, and 0 means nothing there."""
        import pyarrow.compute as pc  # type: ignore[import-untyped]

        cells = self._table.with_format("arrow")[:].column(0)
        inside = pc.fill_null(pc.binary_length(pc.struct_field(cells, "bytes")), 0).to_numpy().astype(np.int64)
        for row in np.flatnonzero(inside == 0):
            path = cells[int(row)].as_py()["path"]
            inside[row] = Path(path).stat().st_size if path and Path(path).is_file() else 0
        return torch.from_numpy(inside)
