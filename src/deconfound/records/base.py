"""What all records share: immutable, versioned, JSON in and out. Nothing here needs a tensor library."""

from __future__ import annotations

import json
from pathlib import Path
from typing import ClassVar, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from deconfound.errors import InputError

SCHEMA_VERSION = 1

Interval = tuple[float, float]


def show_radius(eps: float) -> str:
    """A radius as the field writes it: a decimal where three places are exact, else n/255 where that is, else short.

    >>> show_radius(8 / 255), show_radius(0.3), show_radius(0.2)
    ('8/255', '0.3', '0.2')
    """
    levels = eps * 255
    if abs(eps - round(eps, 3)) > 1e-12 and abs(levels - round(levels)) < 1e-6:
        return f"{round(levels)}/255"
    return f"{eps:g}"


class Record(BaseModel):
    """Base of all records: immutable, no unknown fields, JSON in and out."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")


class Threat(Record):
    """Norm, radius in [0, 1] pixels, and pixel range."""

    norm: str
    eps: float
    box: tuple[float, float] = (0.0, 1.0)


class Machine(Record):
    """Where a figure was measured, and by which commit of the library where it runs from a checkout."""

    device: str
    processor: str
    threads: int
    versions: dict[str, str]
    commit: str = ""


class VersionedRecord(Record):
    """A record that is written to a file of its own."""

    schema_version: int = SCHEMA_VERSION
    kind: str
    expected_kind: ClassVar[str] = ""

    def to_json(self) -> str:
        """Indented JSON with a final newline."""
        return self.model_dump_json(indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes, source: str = "record") -> Self:
        """Read a record.

        Raises:
            InputError: not JSON, another kind of record, a newer schema, missing or unknown fields.
        """
        try:
            data = json.loads(text)
        except ValueError as error:
            raise InputError(source, f"unreadable JSON ({error})", f"a JSON {cls.expected_kind} record") from None
        if not isinstance(data, dict) or data.get("kind") != cls.expected_kind:
            found = data.get("kind") if isinstance(data, dict) else type(data).__name__
            raise InputError(source, found, f"a record of kind {cls.expected_kind!r}")
        version = data.get("schema_version")
        if not isinstance(version, int) or version > SCHEMA_VERSION:
            raise InputError(f"{source}: schema_version", version, f"at most {SCHEMA_VERSION}; update deconfound")
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            first = error.errors()[0]
            field = ".".join(str(part) for part in first["loc"])
            if first["type"] == "missing":
                raise InputError(f"{source}: {field}", None, "a value; this field is required") from None
            cause = first.get("ctx", {}).get("error")
            if isinstance(cause, InputError):
                raise InputError(f"{source}: {field}.{cause.field}", cause.value, cause.rule) from None
            raise InputError(f"{source}: {field}", first.get("input"), first["msg"]) from None

    @classmethod
    def read(cls, path: str | Path) -> Self:
        """Read a record from a file."""
        try:
            text = Path(path).read_bytes()
        except OSError as error:
            raise InputError("record", str(path), f"a readable file ({error.strerror})") from None
        return cls.from_json(text, str(path))
