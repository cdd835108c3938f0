"""What a user's own module holds, by the name ``module:attribute``."""

from __future__ import annotations

import re
from importlib import import_module
from types import ModuleType
from typing import Any

from deconfound.core.guards import working_folder_importable
from deconfound.errors import InputError, meant, nearest, reason, unknown_name

_OFFERED = 60
_SPEC = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")


def is_spec(name: str) -> bool:
    """Whether a name has the form ``module:attribute``.

    >>> is_spec("mynets:build"), is_spec("resnet18"), is_spec("shapes:rho=0.9")
    (True, False, False)
    """
    return _SPEC.fullmatch(name) is not None


def imported(spec: str, field: str, otherwise: str = "") -> Any:
    """The object of that name; the module is looked for in the working folder too.

    Args:
        spec: ``module:attribute``, the attribute with dots where it lies deeper.
        field: how a message begins.
        otherwise: what a message offers beside such a name, as the end of its line.

    Raises:
        InputError: a module that cannot be imported, with the reason; a name that it does not hold, with the nearest.

    >>> imported("math:tau", "number")
    6.283185307179586
    """
    home, _, name = spec.partition(":")
    try:
        with working_folder_importable():
            found: Any = import_module(home)
    except Exception as error:  # importing runs foreign code
        raise InputError(field, spec, f"a module that can be imported ({reason(error)}){otherwise}") from error
    before = f"{home}:"
    for part in name.split("."):
        if not hasattr(found, part):
            raise _absent(field, spec, before, found)
        found, before = getattr(found, part), f"{before}{part}."
    return found


def _absent(field: str, spec: str, before: str, found: Any) -> InputError:
    """What it imported itself is not offered, and of many names the nearest alone: hundreds would hide the message."""
    public = [name for name in dir(found) if not name.startswith("_")]
    own = [before + name for name in public if not isinstance(getattr(found, name), ModuleType)]
    home = before[:-1]
    if not own:
        return InputError(field, spec, f"a name that is there; nothing lies in {home}")
    if len(own) <= _OFFERED:
        return unknown_name(field, spec, own)
    return InputError(field, spec, f"one of the {len(own)} names in {home}{meant(nearest(spec, own))}")
