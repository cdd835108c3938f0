"""YAML files that users write, as plain data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from deconfound.errors import InputError, require


class _Once(yaml.SafeLoader):
    """Refuses a key that stands twice in one mapping, of which YAML would drop the first in silence."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """The mapping, after its keys were looked at."""
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                raise yaml.MarkedYAMLError(problem=f"the key {key.value!r} stands twice", problem_mark=key.start_mark)
            seen.add(str(key.value))
        return dict(super().construct_mapping(node, deep))


def read_yaml(path: Path, field: str) -> dict[str, Any]:
    """A YAML file of keys and values; ``field`` begins what is said of one that is none.

    Raises:
        InputError: an unreadable file, one that is no mapping, a key that stands twice.
    """
    try:
        data = yaml.load(path.read_text(), _Once)
    except OSError as error:
        raise InputError(field, str(path), f"a readable YAML file ({error.strerror})") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(field, str(path), f"a valid YAML file ({_cause(error)})") from None
    require(isinstance(data, dict), field, str(path), "a YAML mapping of keys to values")
    return dict(data)


def _cause(error: Exception) -> str:
    mark = error.problem_mark if isinstance(error, yaml.MarkedYAMLError) else None
    if mark is None:
        return " ".join(str(error).split())
    parts = (error.context, error.problem, f"in line {mark.line + 1}, column {mark.column + 1}")  # type: ignore[attr-defined]
    return ", ".join(part for part in parts if part)
