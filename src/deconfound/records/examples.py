"""Which examples an evaluation saw and which of them stood, packed into a few hundred characters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Annotated, Self

from pydantic import Field, model_validator

from deconfound.errors import require
from deconfound.records.base import Record

_RANGE = r"\d+(-\d+)?"
DIGITS = r"^[0-9a-f]*$"


class StudyExamples(Record):
    """Which examples an evaluation saw, and which of them stood: what a paired test has to know of it.

    Attributes:
        indices: in the data set, in rising order, as ranges: ``0-499,731``.
        right: one bit for each of them, as hexadecimal digits, the first example highest, the last digit filled with 0:
            the clean image is classified correctly.
        stands: likewise: so is whatever the attacks made of it.
    """

    indices: Annotated[str, Field(pattern=rf"^({_RANGE}(,{_RANGE})*)?$")]
    right: Annotated[str, Field(pattern=DIGITS)]
    stands: Annotated[str, Field(pattern=DIGITS)]

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        parts = [(int(first), int(last)) for first, last in _parts(self.indices)]
        rising = all(first <= last for first, last in parts) and all(a[1] < b[0] for a, b in pairwise(parts))
        require(rising, "indices", self.indices, "ranges of rising numbers, none twice")
        digits = -(-self.count // 4)
        for name, found in (("right", self.right), ("stands", self.stands)):
            require(len(found) == digits, name, found, f"{digits} hexadecimal digits for {self.count} examples")
        return self

    @classmethod
    def packed(cls, stood: Mapping[int, tuple[bool, bool]]) -> Self:
        """From what is known by index: clean image right, and right whatever the attacks made of it."""
        indices = sorted(stood)
        right, stands = (packed_bits([stood[index][what] for index in indices]) for what in (0, 1))
        return cls(indices=_ranges(indices), right=right, stands=stands)

    @property
    def count(self) -> int:
        """How many examples."""
        return sum(int(last) - int(first) + 1 for first, last in _parts(self.indices))

    @property
    def stood(self) -> dict[int, tuple[bool, bool]]:
        """What was packed."""
        indices = [i for first, last in _parts(self.indices) for i in range(int(first), int(last) + 1)]
        right, stands = (unpacked_bits(digits, len(indices)) for digits in (self.right, self.stands))
        return dict(zip(indices, zip(right, stands, strict=True), strict=True))


def _parts(ranges: str) -> list[tuple[str, str]]:
    """First and last of each range.

    >>> _parts("0-2,7")
    [('0', '2'), ('7', '7')]
    """
    found = [part.partition("-") for part in ranges.split(",") if part]
    return [(first, last or first) for first, _, last in found]


def _ranges(indices: Sequence[int]) -> str:
    """Rising numbers as ranges.

    >>> _ranges([0, 1, 2, 7, 9, 10])
    '0-2,7,9-10'
    """
    starts = [i for i in range(len(indices)) if i == 0 or indices[i] != indices[i - 1] + 1]
    parts = [(indices[start], indices[end - 1]) for start, end in pairwise([*starts, len(indices)])]
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in parts)


def packed_bits(flags: Sequence[bool]) -> str:
    """Four flags a hexadecimal digit, the first one highest, the last digit filled with 0.

    >>> packed_bits([True, False, True, True, True])
    'b8'
    """
    bits = "".join("01"[flag] for flag in flags)
    return "".join(f"{int(bits[i : i + 4].ljust(4, '0'), 2):x}" for i in range(0, len(bits), 4))


def unpacked_bits(digits: str, count: int) -> list[bool]:
    """The first ``count`` flags of what ``packed_bits`` made.

    >>> unpacked_bits("b8", 5)
    [True, False, True, True, True]
    """
    return [bit == "1" for digit in digits for bit in f"{int(digit, 16):04b}"][:count]
