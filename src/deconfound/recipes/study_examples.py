"""Which examples an evaluation saw and which of them stood, packed into a few hundred characters and back."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise

from deconfound.recipes.pairing import stood
from deconfound.records import Outcome, StudyExamples


def packed(outcomes: Iterable[Outcome]) -> StudyExamples:
    """The outcomes of an evaluation in the order of their indices."""
    found = sorted(stood(outcomes).items())
    right, stands = (_hexadecimal([states[what] for _, states in found]) for what in (0, 1))
    return StudyExamples(indices=_ranges([index for index, _ in found]), right=right, stands=stands)


def unpacked(examples: StudyExamples) -> dict[int, tuple[bool, bool]]:
    """By index: whether the clean image is classified correctly, and whether whatever attacks made of it is too."""
    indices = _indices(examples.indices)
    right, stands = (_bits(digits, len(indices)) for digits in (examples.right, examples.stands))
    return dict(zip(indices, zip(right, stands, strict=True), strict=True))


def _ranges(indices: Sequence[int]) -> str:
    """Rising numbers as ranges.

    >>> _ranges([0, 1, 2, 7, 9, 10])
    '0-2,7,9-10'
    """
    starts = [i for i in range(len(indices)) if i == 0 or indices[i] != indices[i - 1] + 1]
    parts = [(indices[start], indices[end - 1]) for start, end in pairwise([*starts, len(indices)])]
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in parts)


def _indices(ranges: str) -> list[int]:
    found: list[int] = []
    for part in filter(None, ranges.split(",")):
        first, _, last = part.partition("-")
        found += range(int(first), int(last or first) + 1)
    return found


def _hexadecimal(flags: Sequence[bool]) -> str:
    """Four flags a digit, the last digit filled with 0.

    >>> _hexadecimal([True, False, True, True, True])
    'b8'
    """
    bits = "".join("01"[flag] for flag in flags)
    return "".join(f"{int(bits[i : i + 4].ljust(4, '0'), 2):x}" for i in range(0, len(bits), 4))


def _bits(digits: str, count: int) -> list[bool]:
    return [bit == "1" for digit in digits for bit in f"{int(digit, 16):04b}"][:count]


__all__ = ["packed", "unpacked"]
