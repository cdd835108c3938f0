"""How studies judge: the options of ``deconfound evaluate`` that change what is found."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated

from pydantic import BeforeValidator, Field, field_validator

from deconfound.attacks import suites
from deconfound.attacks.budgets import budget as budget_of
from deconfound.core.threat import Norm, parse_norm, show_radius
from deconfound.recipes.schema import Radius
from deconfound.recipes.study_analyses import Seed
from deconfound.training.settings import Settings


class Judgement(Settings):
    """How a run is judged: the options of ``deconfound evaluate`` that change what is found, ``compile``, and whether
    accuracy is measured against the radius too (``curve``), which a second judgement of a run need not do again.

    ``n`` null: all test images, for a random model those of the budget. ``norm`` and ``eps`` null: as trained.
    ``transfer`` names methods of the study whose adversarial images are tried too (``--transfer-from``): those of the
    same seed, or of the first seed of a method that was not trained with it. No run is a source for itself.
    """

    suite: str
    n: Annotated[int, Field(ge=1)] | None = None
    sample: Seed | None = None
    budget: str = "normal"
    seed: Seed = 0
    norm: Annotated[Norm, BeforeValidator(parse_norm)] | None = None
    eps: Radius | None = None
    loops: Annotated[int, Field(ge=1)] | None = None
    draws: Annotated[int, Field(ge=1)] | None = None
    separate: bool = False
    compile: bool = False
    curve: bool = True
    transfer: tuple[str, ...] = ()

    @field_validator("suite")
    @classmethod
    def _is_known(cls, value: str) -> str:
        if not suites.exists(value):
            raise suites.unknown(value)
        return value

    @field_validator("budget")
    @classmethod
    def _is_budget(cls, value: str) -> str:
        budget_of(value)
        return value

    @property
    def question(self) -> str:
        """Everything but how many images are asked, and how often attacks look: what two accuracies must share."""
        words = [self.suite, *([] if self.budget == "normal" else [self.budget]), *([self.norm] if self.norm else [])]
        words += [] if self.eps is None else [show_radius(self.eps).replace("/", "-")]
        words += [] if self.sample is None else [f"sample{self.sample}"]
        words += [] if self.seed == 0 else [f"seed{self.seed}"]
        return "-".join([*words, *(["separate"] if self.separate else [])])

    @property
    def name(self) -> str:
        """What the record's file is called.

        >>> Judgement(suite="adaptive", n=500).name, Judgement(suite="rand", budget="demo", loops=1).name
        ('adaptive-500', 'rand-demo-loops1')
        """
        words = [f"{key}{count}" for key, count in (("loops", self.loops), ("draws", self.draws)) if count is not None]
        words += ["transfer"] if self.transfer else []
        return "-".join([self.question, *words, *([] if self.n is None else [str(self.n)])])


def questions_of(judgements: Iterable[Judgement]) -> dict[str, str]:
    """What each judgement, by its name, answers in tables and tests.

    Of several that ask the same with other loops or draws the first does; the others stand under names of their own.

    >>> questions_of([Judgement(suite="rand", n=9), Judgement(suite="rand", n=9, loops=1)])
    {'rand-9': 'rand', 'rand-loops1-9': 'rand-loops1-9'}
    """
    found: dict[str, str] = {}
    for judgement in judgements:
        taken = judgement.question in found.values()
        found[judgement.name] = judgement.name if taken else judgement.question
    return found
