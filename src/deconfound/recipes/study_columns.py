"""What the record of a study keeps of the attackers of an evaluation that ran by themselves."""

from __future__ import annotations

from collections.abc import Sequence

from deconfound.functional.statistics import wilson_interval
from deconfound.records import ColumnResult, EvaluationRecord
from deconfound.records.beyond import BEYOND, CORRUPTIONS, corruption
from deconfound.records.examples import packed_bits, unpacked_bits


def study_columns(record: EvaluationRecord) -> tuple[ColumnResult, ...]:
    """The columns without their settings; which examples are left only where a study tests it.

    That is for attackers beyond the threat model: each by itself, and all corruptions together, which have a column of
    their own before that of all attackers. Their bits follow the rising indices of the examples, as ``StudyExamples``.

    Args:
        record: of the evaluation.
    """
    order = sorted(range(record.n), key=lambda place: record.outcomes[place].index)
    corrupted = [column for column in record.columns if corruption(column)]
    together = [_together(corrupted, order)] if corrupted and all(_says(one, order) for one in corrupted) else []
    kept = [column.model_copy(update={"settings": {}, "stands": _bits(column, order)}) for column in record.columns]
    ends = [column for column in kept if column.group == "union"]
    return (*(column for column in kept if column.group != "union"), *together, *ends)


def _bits(column: ColumnResult, order: Sequence[int]) -> str:
    if column.group not in BEYOND or corruption(column) or not _says(column, order):
        return ""
    flags = unpacked_bits(column.stands, column.n)
    return packed_bits([flags[place] for place in order])


def _says(column: ColumnResult, order: Sequence[int]) -> bool:
    """Whether it says which examples are left, of all that the evaluation saw."""
    return bool(column.stands) and column.n == len(order)


def _together(columns: Sequence[ColumnResult], order: Sequence[int]) -> ColumnResult:
    every = zip(*(unpacked_bits(column.stands, column.n) for column in columns), strict=True)
    standing = [all(flags) for flags in every]
    left, n = sum(standing), len(standing)
    return ColumnResult(
        name=CORRUPTIONS,
        group="beyond",
        threat=columns[0].threat,
        n=n,
        accuracy=left / n,
        interval=wilson_interval(left, n),
        stands=packed_bits([standing[place] for place in order]),
    )


__all__ = ["study_columns"]
