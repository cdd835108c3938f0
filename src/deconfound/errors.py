"""The one exception for bad input: a single line that names the field, the value and the rule."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """A value that the library cannot accept.

    The message reads ``field: got value; rule`` and is always one line, so that a command line can print it as it is.

    >>> str(InputError("eps", "8/255x", "a number or a fraction such as 8/255"))
    "eps: got '8/255x'; expected a number or a fraction such as 8/255"
    """

    def __init__(self, field: str, value: object, rule: str) -> None:
        self.field = field
        self.value = value
        self.rule = " ".join(rule.split())
        shown = " ".join(repr(value).split())
        if len(shown) > 200:
            shown = shown[:197] + "..."
        super().__init__(f"{field}: got {shown}; expected {self.rule}")

    def __reduce__(self) -> tuple[type[InputError], tuple[str, object, str]]:
        return type(self), (self.field, self.value, self.rule)


def unknown_name(field: str, value: str, known: Iterable[str]) -> InputError:
    """An ``InputError`` for a name that does not exist, with the nearest ones that do."""
    names = sorted(known)
    near = difflib.get_close_matches(value, names, n=1, cutoff=0.5)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    return InputError(field, value, f"one of {', '.join(names)}{hint}")


def require(condition: bool, field: str, value: object, rule: str) -> None:
    """Raise ``InputError`` unless ``condition`` holds."""
    if not condition:
        raise InputError(field, value, rule)
