"""What ``deconfound demo`` shows: which methods on which data, judged on how many images, looked into how."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

EPOCHS = {"epochs": 20}
"""Half of the recipes' own on digits, so that the tour fits into five minutes; alike for all that are compared."""


@dataclass(frozen=True, kw_only=True)
class Chapter:
    """One method.

    Attributes:
        recipe: by name.
        changes: to the recipe.
        base: the recipe whose run, earlier in the tour, is the stage ``base`` of this one.
        control: the recipe that it is compared with, trained alike but for what is causal in this one.
        analyses: by kind, with settings of ``Look``.
    """

    recipe: str
    changes: Mapping[str, Any] = field(default_factory=dict)
    base: str = ""
    control: str = ""
    analyses: Mapping[str, Mapping[str, Any]] = field(default_factory=lambda: {"reliance": {}})

    @property
    def folder(self) -> str:
        """The name of its run."""
        return self.recipe.replace("/", "-")


@dataclass(frozen=True, kw_only=True)
class Tour:
    """Everything that decides the result.

    The confounder is a texture in a corner, black and white, that goes with the class in nine images of ten. No attack
    of the family's radius can paint it over, so that it is a shortcut even to a network that is trained on attacked
    images: robust accuracy can rely on it, and only an intervention shows that. A tint could be undone by the attack.

    Attributes:
        data: with a confounder whose do-operations are known.
        chapters: in the order of the story.
        n: images for the suite ``adaptive``, drawn with the seed ``sample``; the first ones are of few writers.
        n_of_random: the same for random networks, which are asked many times about every image.
        sample: its seed.
        n_of_quick: the first images for the suite ``quick``; all by default.
    """

    data: str = "digits+patch:rho=0.9"
    chapters: tuple[Chapter, ...] = ()
    n: int = 100
    n_of_random: int = 30
    sample: int = 0
    n_of_quick: int | None = None


TOUR = Tour(
    chapters=(
        Chapter(recipe="standard", changes=EPOCHS),
        Chapter(recipe="pgd-at", changes=EPOCHS, analyses={"reliance": {}, "instruments": {}}),
        Chapter(recipe="causaladv-m", changes=EPOCHS, control="pgd-at", analyses={"reliance": {}, "style": {}}),
        Chapter(recipe="ciiv", changes=EPOCHS, control="standard", analyses={"reliance": {}, "exposure": {}}),
        Chapter(recipe="fair/adv", base="pgd-at"),
        Chapter(
            recipe="cafe/adv",
            base="pgd-at",
            control="fair/adv",
            analyses={"reliance": {}, "effects": {}, "pictures": {}},
        ),
    )
)
