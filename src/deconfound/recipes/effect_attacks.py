"""The attacks under which ``analyze RUN effects`` decodes features, by name."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Any

from deconfound.attacks import APGD, FGSM, PGD
from deconfound.attacks.losses import margin
from deconfound.core.protocols import Attack
from deconfound.core.threat import ThreatModel
from deconfound.errors import require, unknown_name

STEPS = 20
USUAL = ("pgd-20", "fgsm", "cw-20", "apgd-20")
"""The paper's, as far as they cost little; the first one is also that of the distances of inversion."""

_CLIMBS: Mapping[str, Callable[..., Attack]] = MappingProxyType(
    {
        "apgd": partial(APGD, whole=True),
        "cw": partial(PGD, loss=margin, relative_step=3.0, keep="last"),
        "pgd": partial(PGD, keep="last"),
    }
)
_WRITTEN = re.compile(r"([a-z]+)(?:-([1-9]\d{0,5}))?", re.ASCII)


def parse_attacks(given: str | Sequence[str] | None) -> tuple[str, ...]:
    """Names of attacks from text joined by commas or from several, with their steps; the usual four for nothing.

    Raises:
        InputError: an unknown name, a name twice, none.

    >>> parse_attacks("fgsm, pgd, cw-40"), parse_attacks(["apgd"])
    (('fgsm', 'pgd-20', 'cw-40'), ('apgd-20',))
    """
    if given is None:
        return USUAL
    words: Sequence[Any] = given.split(",") if isinstance(given, str) else given
    names = tuple(_full(str(word).strip().lower()) for word in words)
    require(bool(names), "attack", given, "names joined by commas, such as fgsm,pgd-20,cw,apgd")
    require(len(set(names)) == len(names), "attack", given, "each attack once")
    return names


def _full(word: str) -> str:
    found = _WRITTEN.fullmatch(word)
    if word == "fgsm":
        return word
    if found is None or found[1] not in _CLIMBS:
        raise unknown_name("attack", word, ("fgsm", *_CLIMBS))
    return f"{found[1]}-{found[2] or STEPS}"


def attacks_of(given: str | Sequence[str] | None, threat: ThreatModel) -> tuple[Attack, ...]:
    """The attacks of these names; each moves every image and leaves none clean because it did not fall.

    ``fgsm``; ``pgd-STEPS`` on cross entropy and ``cw-STEPS`` on Carlini and Wagner's margin, the last iterate of each
    image; ``apgd-STEPS`` on cross entropy, the best one. 20 steps where none are named.

    Args:
        given: as ``parse_attacks`` takes them.
        threat: norm, radius and box.

    Raises:
        InputError: as ``parse_attacks``.
    """
    return tuple(_made(name, threat) for name in parse_attacks(given))


def _made(name: str, threat: ThreatModel) -> Attack:
    if name == "fgsm":
        return FGSM(threat, keep="last")
    kind, steps = name.split("-")
    return _CLIMBS[kind](threat, steps=int(steps), name=name)


__all__ = ["USUAL", "attacks_of", "parse_attacks"]
