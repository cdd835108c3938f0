"""Options that several commands share, with their help."""

from __future__ import annotations

from typing import Annotated

import typer

from deconfound.errors import InputError

Data = Annotated[
    str | None,
    typer.Option("--data", metavar="DATA", help="digits, a folder, a hub name (OWNER/NAME) or MODULE:CALLABLE."),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what lies at the output.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.")]
Json = Annotated[bool, typer.Option("--json", help="Print the record as JSON on standard output, and no table.")]


def devices_of(text: str) -> int | str:
    """A number of devices, or a word for it."""
    return int(text) if text.lstrip("-").isdigit() else text


def accelerator_of(device: str) -> str:
    """The kind of a device such as ``cuda:1``."""
    return "auto" if device == "auto" else device.partition(":")[0]


def numbers_of(field: str, text: str | None, each: str = "one or one per channel") -> tuple[float, ...] | None:
    """Numbers separated by commas, ``each`` in words; None where the option was not given.

    Raises:
        InputError: anything else.
    """
    if text is None:
        return None
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise InputError(field, text, f"numbers separated by commas, {each}") from None


def words_of(field: str, text: str | None) -> tuple[str, ...]:
    """Words separated by commas; none where the option was not given.

    Raises:
        InputError: an empty word.
    """
    words = () if text is None else tuple(word.strip() for word in text.split(","))
    if not all(words):
        raise InputError(field, text, "words separated by commas")
    return words
