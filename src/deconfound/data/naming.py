"""The grammar of data names: what is read, and what is put on it.

    shapes[:SETTINGS]             generated images
    NAME                          a bundled set, a folder, a hub name, module:callable
    NAME:train=N,test=N           the first N images of a split of NAME
    NAME+patch[:SETTINGS]         the images of NAME with a confounding texture
    NAME+tint[:SETTINGS]          the images of NAME with a confounding tint
    NAME:train=N+tint             both

SETTINGS are ``key=value`` joined by commas: ``rho=0.9,seed=1``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from deconfound.core.threat import parse_radius
from deconfound.data.overlays import OVERLAYS
from deconfound.errors import InputError, require, unknown_name

SHAPES = "shapes"

_KNOWN = re.compile(rf"(?P<base>.+)\+(?P<overlay>{'|'.join(OVERLAYS)})(?::(?P<settings>[^+]*))?", re.DOTALL)
_LIMITED = re.compile(r"(?P<base>.+?):(?P<limits>(?:train|test)=[^+:/\\]*)", re.DOTALL)
_LIKELY = re.compile(r".+\+(?P<overlay>[A-Za-z][\w-]*)(?::[^+]*)?", re.DOTALL)


class DataName(NamedTuple):
    """A data name in its parts; ``overlay`` is None where nothing is put on the images, ``limits`` where all count."""

    base: str
    overlay: str | None = None
    settings: str | None = None
    limits: str | None = None


def parts_of(name: str) -> DataName:
    """The parts of a data name; what exists on disk under the whole name is a folder, whatever its name.

    >>> parts_of("digits+patch:rho=0.9")
    DataName(base='digits', overlay='patch', settings='rho=0.9', limits=None)
    >>> parts_of("shapes:seed=2")
    DataName(base='shapes', overlay=None, settings='seed=2', limits=None)
    >>> parts_of("uoft-cs/cifar10:train=100").limits
    'train=100'
    """
    if exists(name):
        base, colon, drawn = name.partition(":")
        return DataName(SHAPES, None, drawn if colon else None) if base == SHAPES else DataName(name)
    found = _KNOWN.fullmatch(name)
    read = found["base"] if found else name
    overlay: str | None = found["overlay"] if found else None
    settings: str | None = found["settings"] if found else None
    base, colon, drawn = read.partition(":")
    if base == SHAPES:
        return DataName(SHAPES, overlay, settings if found else drawn if colon else None)
    limited = None if exists(read) else _LIMITED.fullmatch(read)
    if limited is None:
        return DataName(read, overlay, settings)
    return DataName(limited["base"], overlay, settings, limited["limits"])


def base_of(name: str) -> str:
    """What is read, whether or not it exists: a data name without confounder and settings.

    >>> base_of("data/cifar10+patch:rho=1/10"), base_of("shapes:rho=0.5")
    ('data/cifar10', 'shapes')
    """
    found = _KNOWN.fullmatch(name)
    base = found["base"] if found else name
    if base.partition(":")[0] == SHAPES:
        return SHAPES
    limited = _LIMITED.fullmatch(base)
    return limited["base"] if limited else base


def moved(name: str, place: str) -> str:
    """The data set of a name read from another place: limits and confounder stay, unless the place says its own.

    >>> moved("uoft-cs/cifar10:train=100+tint", "data/cifar10"), moved("digits", "digits+patch:rho=1")
    ('data/cifar10:train=100+tint', 'digits+patch:rho=1')
    """
    return place + name.removeprefix(base_of(name)) if base_of(place) == place else place


def check_overlay(name: str) -> None:
    """Say early that an overlay does not exist.

    Raises:
        InputError: the name ends in ``+WORD``, and WORD is none.
    """
    found = _LIKELY.fullmatch(name)
    if found and not exists(name):
        raise unknown_name("data: confounder", found["overlay"], OVERLAYS)


def check_settings(name: str, known: Iterable[str]) -> None:
    """Say early that what stands behind a colon is no setting of a data set that is known or exists.

    Raises:
        InputError: ``BASE:KEY=...`` with a key that is none.
    """
    base, _, settings = name.partition(":")
    key, equals, _ = settings.partition("=")
    if equals and (base in known or exists(base)):
        rule = f"train=N or test=N; a confounder is put on the images by {base}+patch:rho=0.9 or {base}+tint:rho=0.9"
        raise InputError(f"data: {base}: setting", key, rule)


def exists(name: str) -> bool:
    """Whether a folder or file of this name is there."""
    try:
        return Path(name).expanduser().exists()
    except (OSError, RuntimeError):  # a name too long for a file, or ~ of nobody
        return False


def without_place(name: str) -> str:
    """A data name without the folder it may be, for records that shall not depend on where the data lie.

    >>> without_place("digits+tint:rho=1"), without_place("./+tint:rho=1")
    ('digits+tint:rho=1', '+tint:rho=1')
    """
    if exists(name):
        return ""
    base = parts_of(name).base
    return name.removeprefix(base) if exists(base) and base != SHAPES else name


def as_file_name(name: str) -> str:
    """A data name as part of a file's: the last part of a folder, and no colon or slash.

    >>> as_file_name("data/mnist+patch:rho=1/10"), as_file_name("mine.tools:load")
    ('mnist+patch-rho=1-10', 'mine.tools-load')
    """
    base = base_of(name)
    settings = name.removeprefix(base)  # which may hold a slash that is no folder
    return re.sub(r"[:/\\]", "-", f"{Path(base).resolve().name}{settings}")


def settings_of(text: str | None, kinds: Mapping[str, Callable[[str, str], Any]], field: str) -> dict[str, Any]:
    """Settings from ``key=value,key=value``; None for none.

    Args:
        text: what stands behind the colon.
        kinds: for every key that is known, what makes a value of (text, field).
        field: how messages begin.

    Raises:
        InputError: no ``key=value``, an unknown or repeated key, a value that its kind refuses.

    >>> settings_of("rho=1/2,seed=3", {"rho": probability, "seed": whole}, "data: shapes")
    {'rho': 0.5, 'seed': 3}
    """
    found: dict[str, Any] = {}
    for word in [] if text is None else text.split(","):
        key, equals, value = (part.strip() for part in word.partition("="))
        require(bool(key and equals and value), field, word, f"key=value joined by commas, keys {', '.join(kinds)}")
        if key not in kinds:
            raise unknown_name(f"{field}: setting", key, kinds)
        require(key not in found, f"{field}: {key}", value, f"{key} once, not twice")
        found[key] = kinds[key](value, f"{field}: {key}")
    return found


def probability(value: str, field: str) -> float:
    """A probability from a number or a fraction.

    Raises:
        InputError: no number, or outside [0, 1].
    """
    rule = "a probability in [0, 1], such as 0.9 or 1/3"
    try:
        found = parse_radius(value)
    except InputError:
        raise InputError(field, value, rule) from None
    require(found <= 1, field, value, rule)
    return found


def whole(value: str, field: str) -> int:
    """A whole number.

    Raises:
        InputError: something else.
    """
    require(re.fullmatch(r"\d{1,18}", value, re.ASCII) is not None, field, value, "a whole number of at least 0")
    return int(value)
