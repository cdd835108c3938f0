"""Attacks of one's own by the name ``module:callable``."""

from __future__ import annotations

from typing import Any, cast

from deconfound.core.imported import imported
from deconfound.core.protocols import Attack
from deconfound.core.threat import ThreatModel
from deconfound.errors import InputError, reason, require

_MEMBERS = ("name", "threat", "settings", "at")


def own(spec: str, threat: ThreatModel, otherwise: str = "", **settings: Any) -> Attack:
    """What a callable of a module makes of a threat model and keyword settings: a ``core.protocols.Attack``.

    Args:
        spec: ``module:callable``; the module is looked for in the working folder too.
        threat: handed to the callable first.
        otherwise: what a message offers beside such a name.
        settings: handed to the callable.

    Raises:
        InputError: nothing of that name, settings that it does not take, a result that is no attack.
    """
    make = imported(spec, "attack", otherwise)
    try:
        attack = make(threat, **settings)
    except InputError:
        raise
    except Exception as error:  # foreign code
        raise InputError("attack", spec, f"a callable of a threat model and settings; {reason(error)}") from error
    missing = [name for name in _MEMBERS if not hasattr(attack, name)] + ["__call__"] * (not callable(attack))
    rule = f"a callable that returns an attack; {type(attack).__name__} lacks {', '.join(missing)}"
    require(not missing, "attack", spec, rule)
    return cast(Attack, attack)
