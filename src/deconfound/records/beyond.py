"""Attackers beyond the threat model that ran by themselves, as records of studies have them."""

from __future__ import annotations

import re

from deconfound.records.examples import unpacked_bits
from deconfound.records.runs import ColumnResult
from deconfound.records.studies import StudyResult

BEYOND = ("norm", "beyond")
"""Groups of attackers that leave the threat model: another norm, and not bounded by a norm."""
CORRUPTIONS = "corruptions"
"""The column of a study that says what all corruptions left together: right under every kind at every severity."""


def beyond(one: StudyResult) -> list[ColumnResult]:
    """The attackers beyond the threat model of one judgement; all corruptions are one of them, where that is known.

    Args:
        one: what a run withstood.
    """
    return [column for column in one.columns if column.group in BEYOND and not corruption(column)]


def left_by(column: ColumnResult, one: StudyResult) -> dict[int, tuple[bool, bool]]:
    """By example: clean right, and right whatever the attacker made of it; empty in records that do not say.

    Args:
        column: of the attacker.
        one: the judgement that it belongs to.
    """
    if one.examples is None or not column.stands:
        return {}
    seen = one.examples.stood
    left = unpacked_bits(column.stands, len(seen))
    return {index: (right, stands) for (index, (right, _)), stands in zip(seen.items(), left, strict=True)}


def corruption(column: ColumnResult) -> str:
    """The kind of corruption that a column shows at one severity; empty for every other column.

    >>> shown = {"threat": "linf 1", "n": 9, "accuracy": 1.0, "interval": (0.7, 1.0)}
    >>> corruption(ColumnResult(name="jpeg-3", group="beyond", **shown))
    'jpeg'
    """
    if column.group != "beyond" or not isinstance(column.settings.get("severity", 1), int):
        return ""
    if column.settings:
        return str(column.settings.get("corruption", ""))
    found = re.fullmatch(r"(.+)-[1-5]", column.name)
    return found[1] if found else ""


__all__ = ["BEYOND", "CORRUPTIONS", "beyond", "corruption", "left_by"]
