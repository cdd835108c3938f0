"""The one exception for bad input: a single line that names the field, the value and the rule."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import TypeGuard

# Shorter words begin too many names.
_BEGINNING = 3
# Of difflib's ratio; at 0.5 data would be near to beta.
_ALIKE = 0.55
# Characters of what another library says (compilers say a lot in a line) and of a value: more would hide the rule.
_REASON, _SHOWN = 160, 200


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
        shown = _cut(" ".join(repr(value).split()), _SHOWN)
        super().__init__(f"{field}: got {shown}; expected {self.rule}")

    def __reduce__(self) -> tuple[type[InputError], tuple[str, object, str]]:
        return type(self), (self.field, self.value, self.rule)


def unknown_name(field: str, value: str, known: Iterable[str], near: str = "") -> InputError:
    """An ``InputError`` for a name that does not exist, with the nearest one that does.

    Args:
        field: what the name is of.
        value: the name.
        known: those that exist.
        near: the one that was certainly meant, where the caller knows better than the spelling.
    """
    names = sorted(known)
    return InputError(field, value, f"one of {', '.join(names)}{meant(near or nearest(value, names))}")


def nearest(value: str, known: Iterable[str]) -> str:
    """The name that was probably meant, whatever its capitals and underscores; empty where none is near.

    What is a beginning of a name is nearer than what is spelt alike.

    >>> nearest("PGD_AT", ["pgd-at", "mart"]), nearest("cafe", ["cafe/adv", "cafe-authors/adv"]), nearest("x", ["mart"])
    ('pgd-at', 'cafe/adv', '')
    >>> nearest("mine:nix", ["mine:net", "mine:load"]), nearest("mine:lod", ["mine:net", "mine:load"])
    ('', 'mine:load')
    >>> nearest("objective.beta", ["objective.name"]), nearest("attack.step", ["attack.steps", "attack.eps"])
    ('', 'attack.steps')
    """
    known = list(known)
    home = value[: 1 + (value.find(":") if ":" in value else value.rfind("."))]
    if home and all(one.startswith(home) for one in known):  # what all have in common makes none nearer
        found = nearest(value.removeprefix(home), [one.removeprefix(home) for one in known])
        return home + found if found else ""
    plain = {_plain(name): name for name in sorted(known, reverse=True)}
    asked = _plain(value)
    begun = [name for name in plain if len(asked) >= _BEGINNING and name.startswith(asked)]
    if begun:
        return plain[min(begun, key=lambda name: (len(name), name))]
    alike = difflib.get_close_matches(asked, plain, n=1, cutoff=_ALIKE)
    return plain[alike[0]] if alike else ""


def meant(near: str) -> str:
    """How a message ends that knows a nearer name; nothing where it knows none."""
    return f" (did you mean {near!r}?)" if near else ""


def _plain(name: str) -> str:
    return str(name).casefold().replace("_", "-")


def reason(error: BaseException) -> str:
    r"""An exception in one short line: its type and the first line that it says, where it says anything.

    >>> reason(KeyError("x")), reason(ValueError()), reason(RuntimeError("\n first \n second"))
    ("KeyError: 'x'", 'ValueError', 'RuntimeError: first')
    >>> len(reason(OSError("a" * 1000)))
    160
    """
    lines = str(error).strip().splitlines()
    kind = type(error).__name__
    return _cut(f"{kind}: {lines[0].rstrip()}", _REASON) if lines else kind


def _cut(text: str, longest: int) -> str:
    return text if len(text) <= longest else text[: longest - 3] + "..."


def require(condition: bool, field: str, value: object, rule: str) -> None:
    """Raise ``InputError`` unless ``condition`` holds."""
    if not condition:
        raise InputError(field, value, rule)


def require_whole(field: str, value: object, least: int = 1, *, optional: bool = False, option: str = "") -> None:
    """A whole number of at least ``least``, or None where it is ``optional``.

    Args:
        field: what is refused.
        value: what it got.
        least: the smallest that is good.
        optional: whether None is good too.
        option: what the field is called on the command line, where that is another name.

    Raises:
        InputError: something else, such as True or 2.0.
    """
    good = (is_whole(value) and value >= least) or (optional and value is None)
    called = f" ({option})" if option else ""
    require(good, field, value, f"a whole number of at least {least}{', or None' if optional else ''}{called}")


def require_seed(field: str, value: object) -> None:
    """A seed: what streams of random numbers take.

    Args:
        field: what is refused.
        value: what it got.

    Raises:
        InputError: something else.
    """
    require(is_whole(value) and 0 <= value < 2**63, field, value, "a whole number of at least 0, below 2^63")


def is_whole(value: object) -> TypeGuard[int]:
    """Whether it is an int, and no bool.

    Args:
        value: anything.
    """
    return isinstance(value, int) and not isinstance(value, bool)
