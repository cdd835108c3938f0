"""Attacks of torchattacks, foolbox, ART and adv-lib as members of a suite, by name; imported only when used.

Shapes: B examples; images (B, C, H, W), labels (B,) int64.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, field
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from deconfound.attacks.bridge_adv_lib import ADV_LIB
from deconfound.attacks.bridge_art import ART
from deconfound.attacks.bridge_foolbox import FOOLBOX
from deconfound.attacks.bridge_parts import SEEDS, Library, Maker, Shielded, Task, parameters, quiet_and_seeded
from deconfound.attacks.bridge_torchattacks import TORCHATTACKS
from deconfound.attacks.harness import Hunt, cut
from deconfound.attacks.hunting import HuntingAttack
from deconfound.attacks.losses import name_of
from deconfound.attacks.points import Points
from deconfound.attacks.settings import check_threat, described
from deconfound.attacks.whole_box import from_unit, to_unit
from deconfound.core.protocols import Classifier
from deconfound.core.threat import ThreatModel
from deconfound.errors import InputError, require, unknown_name

LIBRARIES: Mapping[str, Library] = MappingProxyType(
    {library.name: library for library in (TORCHATTACKS, FOOLBOX, ART, ADV_LIB)}
)
"""The libraries by the name in front of the colon."""

_ALIASES = {"advlib": "adv_lib", "adv-lib": "adv_lib", "adversarial-robustness-toolbox": "art"}


@dataclass(frozen=True)
class Bridge(HuntingAttack):
    """An attack of another library under our contract.

    The points that the judge gets right go to the library's attack with the radius, norm and box of the threat model;
    what comes back is projected into the threat model and judged, and only adversarial images are kept. The library
    sees float32 pixels in [0, 1] whatever the box, so a length among its settings is a share of the box's width. Its
    other settings keep the library's defaults, but for a step size that is a fixed number there whatever the radius: it
    is 2.5 eps / steps as in our attacks (ART's AutoPGD family: eps).

    Libraries draw from global generators, which are seeded from the streams of the points at hand and restored. So
    results are reproducible but, unlike those of our own attacks, depend on how the examples were batched; some
    libraries also average over the batch.

    Args:
        threat: norm, radius and box.
        attack: ``library:Attack``, such as ``torchattacks:PGD``, ``foolbox:LinfPGD``, ``art:ProjectedGradientDescent``
            or ``adv_lib:apgd``.
        options: settings of the library's attack.
        name: in records, and for the random numbers of an evaluation; by default ``attack``.

    Raises:
        InputError: an unknown or absent library, an unknown attack or setting, a setting that is missing or follows
            from the threat model, an attack that moves in other norms. When called also: settings that the library
            refuses, an attack that returns no images; other exceptions of a library pass through, with a note that
            names the attack.
    """

    _: KW_ONLY
    attack: str
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)
    name: str = ""

    def __post_init__(self) -> None:
        check_threat(self.threat)
        library, member, make = _found(self.attack)
        object.__setattr__(self, "attack", f"{library.name}:{member}")
        object.__setattr__(self, "options", dict(self.options))
        self._check_options(library, make)
        norms = library.norms(member, make)
        rule = f"an attack in {self.threat.norm}; this one moves in {' or '.join(norms)}"
        require(self.threat.norm in norms, "attack", self.attack, rule)
        if not self.name:
            object.__setattr__(self, "name", self.attack)

    def _check_options(self, library: Library, make: Maker) -> None:
        accepted = {key: value for key, value in parameters(make).items() if key not in library.own}
        for key, value in self.options.items():
            if key not in accepted:
                listed = ", ".join(accepted) or "none"
                raise InputError(f"{self.attack}.{key}", value, f"a setting of this attack: {listed}")
        follows = self._follows(library, make)
        for key, parameter in accepted.items():
            if parameter.default is inspect.Parameter.empty and key not in {**self.options, **follows}:
                raise InputError(f"{self.attack}.{key}", None, "a value; the library has no default")

    def _follows(self, library: Library, make: Maker) -> dict[str, Any]:
        low, high = self.threat.box
        return library.follow(make, self.threat.norm, self.threat.eps / (high - low), self.options)

    def settings(self) -> dict[str, Any]:
        """Every hyper-parameter, the library's defaults included, ready for JSON."""
        library, _, make = _found(self.attack)
        known = {key: value.default for key, value in parameters(make).items() if key not in library.own}
        chosen = {key: value for key, value in self._follows(library, make).items() if key not in library.own}
        settings = {key: _plain(value) for key, value in {**known, **chosen, **self.options}.items()}
        return described("bridge", self.threat, attack=self.attack, version=library.version(), settings=settings)

    def body(self, surrogate: Classifier, hunt: Hunt) -> None:
        """What the library's attack returns, candidate by candidate."""
        candidates = self._candidates(surrogate, hunt.points)
        while candidates and len(hunt.points):
            first, *rest = candidates
            index = hunt.drop_fallen(first, ask_all=True)
            candidates = cut(index, *rest)

    def _candidates(self, surrogate: Classifier, points: Points) -> tuple[Tensor, ...]:
        """What the library found, inside the threat model."""
        library, _, make = _found(self.attack)
        # A sum, so that the order of the points does not matter.
        seed = int(points.streams.fold("bridge", self.attack).integers(0, SEEDS).sum() % SEEDS)
        low, high = self.threat.box
        task = Task(
            make=make,
            settings={**self._follows(library, make), **self.options},
            model=Shielded(surrogate, points, self.threat, seed).eval(),
            pixels=to_unit(points.images, self.threat).float().clone(),
            labels=points.labels.clone(),
            eps=self.threat.eps / (high - low),
            norm=self.threat.norm,
            seed=seed,
        )
        try:
            with quiet_and_seeded(seed):
                found = library.run(task)
        except Exception as error:
            error.add_note(f"raised inside {self.attack}")
            raise
        return tuple(self._inside(candidate, points.images) for candidate in found)

    def _inside(self, candidate: Any, images: Tensor) -> Tensor:
        """The nearest allowed image; a pixel that is not finite counts as untouched."""
        fits = isinstance(candidate, Tensor) and candidate.shape == images.shape
        shown = tuple(candidate.shape) if isinstance(candidate, Tensor) else type(candidate).__name__
        require(fits, f"attack {self.attack!r}", shown, f"an attack that returns images {tuple(images.shape)}")
        pixels = candidate.detach().to(images)
        moved = torch.where(pixels.isfinite(), from_unit(pixels, self.threat), images)
        return self.threat.project(moved, images)


def bridge(attack: str, threat: ThreatModel, *, name: str = "", **settings: Any) -> Bridge:
    """The attack of another library of that name, with its own settings as keywords; see ``Bridge``.

    Raises:
        InputError: as ``Bridge``.
    """
    return Bridge(threat, attack=attack, options=settings, name=name)


def is_bridge(attack: str) -> bool:
    """Whether the name of an attack begins with that of a library.

    >>> is_bridge("torchattacks:PGD"), is_bridge("mine:Attack")
    (True, False)
    """
    prefix = attack.partition(":")[0]
    return _ALIASES.get(prefix, prefix) in LIBRARIES


def members(library: str) -> tuple[str, ...]:
    """The names of a library's attacks.

    Raises:
        InputError: no such library, or it does not import here.
    """
    name = _ALIASES.get(library, library)
    if name not in LIBRARIES:
        raise unknown_name("library", library, LIBRARIES)
    return tuple(sorted(LIBRARIES[name].members(LIBRARIES[name].imported(library))))


def _found(attack: str) -> tuple[Library, str, Maker]:
    """The library, the name within it, and what makes the attack."""
    known = ", ".join(LIBRARIES)
    require(isinstance(attack, str) and attack.count(":") == 1, "attack", attack, f"LIBRARY:ATTACK, LIBRARY of {known}")
    prefix, member = attack.split(":")
    prefix = _ALIASES.get(prefix, prefix)
    if prefix not in LIBRARIES:
        raise unknown_name("attack", attack, [f"{name}:{member}" for name in LIBRARIES])
    library = LIBRARIES[prefix]
    makers = library.members(library.imported(attack))
    if member not in makers:
        raise unknown_name("attack", attack, [f"{prefix}:{name}" for name in makers])
    return library, member, makers[member]


def _plain(value: Any) -> Any:
    """A setting as JSON holds it; a function or object by its name."""
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return str(value)
    return value if value is None or isinstance(value, (bool, int, float, str)) else name_of(value)
